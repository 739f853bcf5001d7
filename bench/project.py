"""This project as a person runs it: `samebits up`, pushes, and what the channel is told."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import temporary_settings

from bench.numbers import Burst, Sample, descendants, memory_mib
from bench.pushes import Repository, Webhook, wait_for
from blocks.docker_stack import DockerStack
from blocks.engine import DockerHost
from blocks.prefect_api import prefect_api, read_steps
from blocks.run_search import read_recent_runs
from deployments import example
from deployments.environment import client_settings, own_environment
from deployments.settings import SystemSettings
from tests.conftest import remove_system

_TRACING = Path(__file__).parent / "tracing"
_START_SECONDS, _WHOLE_SECONDS, _DRAIN_SECONDS = 240, 120, 600
_LANES = {"cli receive": "service", "cli work": "worker", "cli up": "up"}


class Project:
    """The running system; its `master` leads to a stack, as each pipeline of the others does."""

    def __init__(
        self, settings: SystemSettings, process: subprocess.Popen[bytes], folder: Path
    ) -> None:
        self.settings, self._process, self._log = settings, process, folder / "up.log"
        self.trace, self._pid = folder / "trace.jsonl", process.pid
        self.repository = example.bare_repository(settings)
        secret = example.webhook_secret(settings)
        self._webhook = Webhook(settings.receiver_url, self.repository, secret)
        self._http = httpx.Client(trust_env=False, timeout=2)
        self._since = datetime.now(UTC)
        self.last: FlowRun | None = None
        self.began = 0.0
        """When the last pipeline was pushed, in seconds of the epoch"""

    def wait_until_up(self) -> None:
        """Return once it takes pushes."""

        def is_up() -> float | None:
            if self._process.poll() is not None:
                raise RuntimeError(f"it did not start:\n{self._log.read_text()}")
            return 1.0 if "Ctrl-C stops" in self._log.read_text() else None

        wait_for(is_up, _START_SECONDS, "the system")

    def pipeline(self, repository: Repository) -> Sample:
        """Push a change to master, and see the channel told that it is live."""
        return self._pushed(repository.commit("master"), "master")

    def promotion(self, repository: Repository) -> float:
        """Push what master has to release; seconds until it serves there."""
        sha = repository.promote("master", "release")
        version = f"version {repository.version('release')}."

        def serves() -> float | None:
            with contextlib.suppress(httpx.TransportError):
                said = self._http.get(f"http://127.0.0.1:{self.settings.prod_port}/").text
                return time.time() if version in said else None
            return None

        began = self._webhook.push(sha, "release")
        served = wait_for(serves, _WHOLE_SECONDS, f"{sha} on prod")
        self._told_of(sha, "release")
        return served - began

    def _pushed(self, sha: str, branch: str) -> Sample:
        began = self.began = self._webhook.push(sha, branch)
        ended = self._told_of(sha, branch)
        self.last = asyncio.run(self._run_of(sha, branch))
        return Sample(asyncio.run(self._first_step(self.last.id)) - began, ended - began)

    def _told_of(self, sha: str, branch: str) -> float:
        """When the channel was told that the pipeline of a commit has passed."""

        def is_told() -> float | None:
            told = [line for line in self._told() if f"`{sha[:8]}`" in line and branch in line]
            if any("· failed*" in line or "· crashed*" in line for line in told):
                raise RuntimeError(f"the pipeline of {sha} failed; see {self.settings.home}/logs")
            return time.time() if any("· passed*" in line for line in told) else None

        return wait_for(is_told, _WHOLE_SECONDS, f"the end of {sha}")

    def first_step(self, repository: Repository) -> float:
        """Push to a branch that leads nowhere; seconds until its first step begins."""
        branch = f"nowhere/{time.time_ns()}"
        (sha,) = repository.commit_nothing([branch])
        return self._pushed(sha, branch).first_step_s

    def burst(self, repository: Repository, number: int) -> Burst:
        """Push to many branches at once, all with the content that was built and tested before."""
        at = time.time_ns()
        branches = [f"burst/{at}-{n}" for n in range(number)]
        began = self._webhook.burst(repository.commit_nothing(branches), branches)
        most, deadline = 0.0, time.time() + _DRAIN_SECONDS
        while asyncio.run(self._passed(f"burst/{at}-")) < number and time.time() < deadline:
            most = max(most, memory_mib(descendants(self._pid)))
            time.sleep(1)
        ended = asyncio.run(self._ends(f"burst/{at}-", number))
        if not ended:
            raise TimeoutError(f"no run of the burst has passed; see {self.settings.home}/logs")
        return Burst(number, len(ended), round(max(ended) - began, 2), most)

    def processes(self) -> list[int]:
        """All of it."""
        return descendants(self._pid)

    def lanes(self) -> dict[int, str]:
        """The parts of the system, by process; any other process is that of a run."""
        lanes = {}
        for pid in descendants(self._pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                for words, lane in _LANES.items():
                    if words in command:
                        lanes[pid] = lane
        return lanes

    def _told(self) -> list[str]:
        channel = self.settings.channel_file
        return channel.read_text().splitlines() if channel.exists() else []

    async def _run_of(self, sha: str, branch: str) -> FlowRun:
        with temporary_settings(client_settings(self.settings)):
            async with prefect_api() as client:
                runs = await read_recent_runs(client, self._since)
        return next(run for run in runs if _commit(run) == (sha, branch))

    async def _first_step(self, run: UUID) -> float:
        """When the first step began; Prefect writes that down a moment later."""
        with temporary_settings(client_settings(self.settings)):
            async with prefect_api() as client:
                for _ in range(50):
                    steps = await read_steps(client, run)
                    if steps and steps[0].start_time:
                        return steps[0].start_time.timestamp()
                    await asyncio.sleep(0.1)
        raise TimeoutError(f"the run {run} has no step")

    async def _passed(self, branch: str) -> int:
        """How many runs of these branches have passed: a question that costs the server little."""
        passed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))
        wanted = FlowRunFilter(name=FlowRunFilterName(like_=branch), state=passed)
        with temporary_settings(client_settings(self.settings)):
            async with prefect_api() as client:
                return await client.count_flow_runs(flow_run_filter=wanted)

    async def _ends(self, branch: str, number: int) -> list[float]:
        """When the runs of these branches ended, as far as they have; one that failed is none."""
        with temporary_settings(client_settings(self.settings)):
            async with prefect_api() as client:
                runs = (await read_recent_runs(client, self._since))[: 2 * number]
        mine = [run for run in runs if _commit(run)[1].startswith(branch)]
        return [
            run.end_time.timestamp()
            for run in mine
            if run.end_time and run.state and run.state.is_completed()
        ]


@contextlib.contextmanager
def project(settings: SystemSettings, folder: Path) -> Iterator[Project]:
    """Begin to start it, and in the end stop it and remove what it has on the engine."""
    variables = own_environment(settings) | {
        "PYTHONPATH": str(_TRACING),
        "BENCH_TRACE": str(folder / "trace.jsonl"),
    }
    example.take_as_known(settings)
    with (folder / "up.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "up"],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    try:
        yield Project(settings, process, folder)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
        for stack, port in (("stage", settings.stage_port), ("prod", settings.prod_port)):
            DockerStack(port=port, prefix=settings.name).destroy(stack)
        remove_system(DockerHost(), settings)


def _commit(run: FlowRun) -> tuple[str, str]:
    commit = run.parameters.get("commit") or {}
    return str(commit.get("sha", "")), str(commit.get("branch", ""))
