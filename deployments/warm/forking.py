"""The worker's side of the parent: start it, have it fork, and hear how the runs end."""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.warm.configuration import settings_as_variables
from deployments.warm.known import Known
from domain.errors import StartFailed

_READY_SECONDS = 180
log = logging.getLogger("samebits.worker")
# A title may be as long as the arguments were, where the environment is to stay to be seen.
_ROOM = "for the runs of a worker, which are forked from it and called by their ID"


@dataclass
class Forked:
    """The process of a run, as Prefect's ProcessHandle wants it."""

    pid: int
    returncode: int | None = None
    """Set once it has ended; -9 for SIGKILL"""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Parent:
    """A parent process, and the runs that it has forked."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._forked: dict[str, Forked] = {}
        self._asked: dict[str, asyncio.Future[Forked]] = {}
        self._ready = asyncio.Event()

    @classmethod
    async def start(cls) -> "Parent":
        """Start one, and wait until it has everything loaded; raises StartFailed."""
        parent = cls()
        ours, theirs = socket.socketpair()
        with theirs:
            parent._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "deployments.warm.parent", str(theirs.fileno()), _ROOM),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # In the words that a run is given: then it need not read its settings anew.
                env=os.environ | settings_as_variables() | {"SPT_NOENV": "1"},
            )
        await parent._attach(ours)
        return parent

    async def _attach(self, ours: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen(reader))
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            self._writer.close()
        if not self.alive:
            raise StartFailed(
                "The process that the runs are forked from does not start.",
                hint="The worker's log says why. Is there enough memory?",
            )

    @property
    def alive(self) -> bool:
        """Whether it can fork."""
        return self._listening is not None and not self._listening.done()

    async def fork(
        self,
        run: str,
        environment: Mapping[str, str],
        folder: Path,
        known: Known,
        module: str = "prefect.engine",
    ) -> Forked:
        """Have a process forked that runs a module; StartFailed if the parent dies meanwhile."""
        asked: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._asked[run] = asked
        self._say(
            {
                "run": run,
                "module": module,
                "environment": dict(environment),
                "folder": str(folder),
                "known": known,
            }
        )
        return await asked

    def leave(self) -> None:
        """Let it end once its last run is over."""
        self._say({"leave": True})

    async def left(self) -> None:
        """Wait until it has ended."""
        if self._process:
            await self._process.wait()
        if self._listening and self._writer:
            await asyncio.wait([self._listening])
            await self._writer.wait_closed()

    def _say(self, words: dict[str, Any]) -> None:
        if not self._writer or not self.alive:
            raise StartFailed(
                "The process that the runs are forked from has died.", hint="Retry the run."
            )
        self._writer.write(json.dumps(words).encode() + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                self._hear(json.loads(line))
        except OSError as error:  # as where it was killed
            log.warning("the parent of the runs is gone: %s", error)
        finally:  # what it forked died with it
            if self._writer:
                self._writer.close()
            self._ready.set()
            for forked in self._forked.values():
                self._end(forked, -9)
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(
                        StartFailed(
                            "The process that the runs are forked from has died.",
                            hint="Retry the run.",
                        )
                    )

    def _hear(self, words: dict[str, Any]) -> None:
        if "ready" in words:
            self._ready.set()
        elif "pid" in words:
            forked = self._forked[words["run"]] = Forked(words["pid"])
            asked = self._asked.pop(words["run"])
            if not asked.done():
                asked.set_result(forked)
        elif words["run"] in self._forked:
            self._end(self._forked.pop(words["run"]), words["code"])

    @staticmethod
    def _end(forked: Forked, code: int) -> None:
        forked.returncode = code
        forked.ended.set()
