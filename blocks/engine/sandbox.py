"""Code under test, shut in: it is taken for hostile."""

import io
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker.errors
import requests.exceptions
from docker.types import LogConfig

from blocks.engine.containers import Containers
from blocks.engine.faults import engine_faults
from domain.errors import LOG_TAIL_LINES, EngineRefused, EngineUnavailable

_NETWORK = "samebits-tests"
_MOST_LINE = 2000
_MOST_FILE_BYTES = 8 << 20
_TAR_OVERHEAD = 64 << 10
_GRACE_SECONDS = 60
_NOT_A_FILE = 0x8F280000
"""Folder, link, pipe, socket, device: https://pkg.go.dev/io/fs#FileMode"""
_LOG = LogConfig(type="json-file", config={"max-size": "20m", "max-file": "2"})
Log = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """What a container of code under test may use."""

    memory_mib: int
    processes: int
    timeout_seconds: float


@dataclass(frozen=True)
class RunResult:
    """How a container ended: inspected exit code, last lines of its log, and a file of it."""

    exit_code: int
    timed_out: bool
    out_of_memory: bool
    tail: tuple[str, ...]
    file: bytes | None


class Sandbox(Containers):
    """Running code under test to its end."""

    def run(
        self,
        image_id: str,
        command: Sequence[str],
        limits: Limits,
        labels: Mapping[str, str],
        log: Log,
        file: str = "",
    ) -> RunResult:
        """Run a command in an image to its end, shut in, and remove the container in any case.

        The container gets no socket, no host path, no capability and none of this process's
        environment. `file` is read out of it afterwards, if it is there.
        """
        with engine_faults("creating the container"):
            container = self._docker.containers.create(
                image_id,
                # In place of the image's own entrypoint, which could end with 0 and test nothing.
                entrypoint=list(command),
                environment={"CI": "true"},
                labels=dict(labels),
                mem_limit=f"{limits.memory_mib}m",
                memswap_limit=f"{limits.memory_mib}m",
                pids_limit=limits.processes,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                log_config=_LOG,
                init=True,
                network=self.sandbox_network(),
            )
        try:
            return self._run_to_end(container, limits, log, file)
        finally:
            self.remove(container.id)

    def sandbox_network(self) -> str:
        """A network that leads out, but to no other container, of tests or of anything else."""
        self.network(_NETWORK, {"samebits.role": "network"}, talk=False)
        return _NETWORK

    def _run_to_end(self, container: Any, limits: Limits, log: Log, file: str) -> RunResult:
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            # It may have ended by itself in this very moment.
            with suppress(docker.errors.APIError, requests.exceptions.RequestException):
                container.kill()

        timer = threading.Timer(limits.timeout_seconds, stop)
        tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        with engine_faults("running the container"):
            # Attached, for the engine's followed log can end before the container's last words.
            output = container.attach(stream=True)
            container.start()
            timer.start()
            try:
                for line in _lines(output):
                    tail.append(line)
                    log(line)
                # The log can end before the container, or without a word: only the state counts.
                container.wait(timeout=limits.timeout_seconds + _GRACE_SECONDS)
            finally:
                timer.cancel()
            container.reload()
            state = container.attrs["State"]
        if state["Status"] != "exited":
            raise EngineUnavailable(f"The container is {state['Status']} and did not end.")
        return RunResult(
            exit_code=int(state["ExitCode"]),
            timed_out=timed_out.is_set(),
            out_of_memory=bool(state["OOMKilled"]),
            tail=tuple(tail),
            file=self._read_file(container, file) if file else None,
        )

    def _read_file(self, container: Any, path: str) -> bytes | None:
        directory = container.attrs["Config"]["WorkingDir"] or "/"
        full = path if path.startswith("/") else f"{directory.rstrip('/')}/{path}"
        try:
            with engine_faults(f"reading {path}"):
                stream, stat = container.get_archive(full)
                if stat["mode"] & _NOT_A_FILE or stat["size"] > _MOST_FILE_BYTES:
                    return None
                tar = io.BytesIO(b"".join(_at_most(_MOST_FILE_BYTES + _TAR_OVERHEAD, stream)))
        except EngineRefused:
            return None
        with tarfile.open(fileobj=tar) as archive:
            member = archive.next()
            content = archive.extractfile(member) if member and member.isreg() else None
            return content.read() if content else None


def _at_most(size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, as long as they are not more than a size."""
    for chunk in chunks:
        size -= len(chunk)
        if size < 0:
            return
        yield chunk


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (_text(line) for line in whole)
        if len(rest) > _MOST_LINE:
            yield _text(rest)
            rest = b""
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    return line[:_MOST_LINE].decode(errors="replace").rstrip("\r").replace("\x00", "")
