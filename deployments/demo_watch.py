"""What the demo looks at: runs, registry, stacks, the channel, and a load on a stack."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, TaskRun

from blocks.loading import load
from blocks.named import registry_of, stack_called
from blocks.prefect_api import read_runs, read_steps, retry_run, run_url, step_name
from blocks.repository import GitHubRepository
from deployments import example
from deployments.settings import SystemSettings
from domain.errors import DemoFailed

_RUN_SECONDS = 300
_LEAST_REQUESTS = 20


@dataclass(frozen=True)
class Seen:
    """A run that has ended: its state, and how each step went in its last attempt."""

    id: UUID
    url: str
    state: str
    message: str
    steps: dict[str, str]
    """Name of each step to its state's name, `Cached` where it was not executed"""
    seconds: dict[str, float]

    def must_have(self, state: str, steps: list[str], *, executed: list[str]) -> None:
        """Raises DemoFailed unless the run ended so, with just these steps, of which these ran."""
        if self.state != state:
            raise DemoFailed(f"The run is {self.state}, not {state}.", why=self.message)
        if sorted(self.steps) != sorted(steps):
            raise DemoFailed(f"The run has the steps {sorted(self.steps)}, not {sorted(steps)}.")
        ran = sorted(name for name, how in self.steps.items() if how != "Cached")
        if ran != sorted(executed):
            raise DemoFailed(f"The steps that ran are {ran}, not {sorted(executed)}.")


class Watch:
    """Looks at the running system from outside."""

    def __init__(self, settings: SystemSettings, client: PrefectClient) -> None:
        self._settings, self._client = settings, client
        self._since = datetime.now(UTC) - timedelta(hours=1)
        self._registry = registry_of(load(GitHubRepository, example.NAME))

    async def finished(
        self,
        sha: str,
        branch: str,
        attempt: int,
        say: Callable[[str], None],
        seconds: float = _RUN_SECONDS,
    ) -> Seen:
        """The run of a commit on a branch, once it has ended; each step is said as it goes."""
        deadline = time.monotonic() + seconds
        said: set[tuple[str, str]] = set()
        run: FlowRun | None = None
        while time.monotonic() < deadline:
            run = await (self._client.read_flow_run(run.id) if run else self._run_of(sha, branch))
            # One that was cancelled before it began has no try at all.
            if run and (run.run_count >= attempt or (attempt == 1 and _has_ended(run))):
                steps = await self._steps(run)
                for step in steps:
                    what = (step_name(step), step.state_name or "")
                    if what not in said and step.state and step.state.is_final():
                        said.add(what)
                        seconds = step.total_run_time.total_seconds()
                        say(f"{what[0]:8} {what[1].lower():10} {seconds:.1f} s")
                if _has_ended(run) and _are_written_down(run, steps):
                    return self._seen(run, steps)
            await asyncio.sleep(0.5)
        raise DemoFailed(f"The run of {sha[:8]} on {branch} did not end within {seconds:g} s.")

    async def _run_of(self, sha: str, branch: str) -> FlowRun | None:
        for run in await read_runs(self._client, self._since):
            commit = run.parameters.get("commit") or {}
            if (commit.get("sha"), commit.get("branch")) == (sha, branch):
                return run
        return None

    async def _steps(self, run: FlowRun) -> list[TaskRun]:
        steps = await read_steps(self._client, run.id)
        return [step for step in steps if step.flow_run_run_count == run.run_count]

    def _seen(self, run: FlowRun, steps: list[TaskRun]) -> Seen:
        names = {step_name(step): step for step in steps}
        return Seen(
            id=run.id,
            url=run_url(run.id),
            state=run.state_type.value if run.state_type else "",
            message=(run.state.message or "") if run.state else "",
            steps={name: step.state_name or "" for name, step in names.items()},
            seconds={n: step.total_run_time.total_seconds() for n, step in names.items()},
        )

    async def retry(self, run_id: UUID) -> None:
        """Retry a run through the very call of the UI's button."""
        await retry_run(self._client, run_id)

    def published(self, sha: str) -> str | None:
        """The digest that the registry has for a commit, if any."""
        found = self._registry.manifest(self._registry.repository(example.NAME), sha)
        return found.digest if found else None

    async def serving(self, stack: str) -> str | None:
        """The digest that a stack runs."""
        now = await asyncio.to_thread(stack_called(stack).serving, stack)
        return now.digest if now else None

    async def told(self, run_id: UUID, *texts: str) -> None:
        """Wait until the channel's last message about a run holds all of these texts."""
        deadline, said = time.monotonic() + 60, ""
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                lines = self._settings.channel_file.read_text().splitlines()
                said = next((t for t in map(_text, reversed(lines)) if str(run_id) in t), "")
            if all(text in said for text in texts):
                return
            await asyncio.sleep(0.2)
        raise DemoFailed(f"The channel was not told {texts}.", why=f"It was told: {said!r}")


def _has_ended(run: FlowRun) -> bool:
    return bool(run.state and run.state.is_final())


def _are_written_down(run: FlowRun, steps: list[TaskRun]) -> bool:
    """Whether Prefect's record of the steps, which it keeps by events, is not behind the run's.

    The steps of a run that did not end by itself may stay as they were for ever.
    """
    passed = run.state and run.state.is_completed()
    return not passed or all(step.state and step.state.is_final() for step in steps)


def _text(line: str) -> str:
    return str(json.loads(line)["text"])


class Load:
    """A small constant load on an address, in a thread: about fifty requests a second."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = self.failed = 0
        self.whole = False
        """Whether it went on to its end, and was a load"""
        self.faults: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=10) as client:
            while not self._stop.wait(0.02):
                self.sent += 1
                try:
                    client.get(self._url).raise_for_status()
                except httpx.HTTPError as error:
                    self.failed += 1
                    self.faults.add(f"{type(error).__name__}: {error}"[:100])
        self.whole = self.sent >= _LEAST_REQUESTS
