"""`samebits up`, as a person runs it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun, TaskRun

from blocks.engine import Container, DockerHost, Engine
from blocks.prefect_api import read_runs, read_steps, step_name
from deployments import example
from deployments.environment import child_environment
from domain.marks import restarts
from domain.message import STEPS
from tests.conftest import unique
from tests.e2e.conftest import free_settings
from tests.e2e.up import COMMAND, Up, up
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture
def whole(name: str, tmp_path: Path, docker_host: DockerHost) -> Iterator[Up]:
    """A system that is not started yet; afterwards nothing of it is left."""
    with up(free_settings(f"{name}-up", tmp_path / "home"), docker_host) as made:
        yield made


@pytest.mark.parametrize("part", ["PREFECT", "RECEIVER", "REGISTRY", "STAGE"])
def test_a_port_that_is_taken_is_one_clear_message_and_nothing_is_left(
    part: str, engine: Engine, whole: Up
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = {f"SAMEBITS_{part}_PORT": str(other.getsockname()[1])}
        done = subprocess.run(
            COMMAND,
            env=whole.variables | taken,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 1
    assert re.match(rf"Port \d+ is taken.*SAMEBITS_{part}_PORT=… make up\n\Z", done.stderr)
    assert engine.container(f"{whole.settings.name}-registry") is None


def test_what_is_cut_off_by_a_stop_is_told_and_what_a_power_cut_ends_goes_on_by_itself(
    whole: Up, engine: Engine
) -> None:
    def tests(sha: str = "") -> list[Container]:
        labels = {"samebits.role": "test", "samebits.system": whole.settings.name}
        return engine.containers(
            labels | ({"org.opencontainers.image.revision": sha} if sha else {})
        )

    with whole.running():
        endless = push(whole, "feature/endless", unique(), 600)
        wait_until(lambda: bool(tests(endless)), 120, "tests run")
    assert not tests()
    registry = engine.container(f"{whole.settings.name}-registry")
    assert registry
    assert not registry.running
    with whole.running():
        wait_until(lambda: "system was stopped" in whole.told, 30, "told the end")
        a_worker_with_sigint_ignored_stops(whole)
        kill_the_worker(whole)
        version = unique()
        sha = push(whole, "master", version, 5)
        wait_until(lambda: bool(tests(sha)), 120, "tests run")
        (left,) = tests(sha)
        whole.cut_the_power()
        assert [container.id for container in tests(sha)] == [left.id]
    with whole.running():
        wait_until(lambda: whole.serves(version), 120, "it is deployed")
        assert left.id not in [container.id for container in tests()]
        ((run, steps),) = asyncio.run(ended(version, whole))
        assert (run.run_count, restarts(run.labels)) == (2, 1)
        assert (set(steps), steps.count("deploy")) == (set(STEPS), 1)
        wait_until(lambda: f"passed* (attempt 2)\\n`{sha[:8]}`" in whole.told, 30, "told the end")


def push(whole: Up, branch: str, version: str, seconds: int) -> str:
    """Push a version whose tests take so long; returns the SHA."""
    work = whole.home.parent / branch.replace("/", "-")
    example.git("clone", "--quiet", str(whole.bare), str(work))
    (work / "Makefile").write_text(f"test:\n\tsleep {seconds}\n")
    (work / "VERSION").write_text(version)
    sha = example.commit(work, version)
    example.git("-C", str(work), "push", "--quiet", "origin", f"{sha}:refs/heads/{branch}")
    return sha


def a_worker_with_sigint_ignored_stops(whole: Up) -> None:
    """One that a script has started in the background, beside the one that is there."""
    log = whole.home.with_name("second.log")
    with log.open("wb") as output:
        second = subprocess.Popen(
            [
                "sh",
                "-c",
                "trap '' INT; exec \"$0\" -m deployments.cli work --name second",
                sys.executable,
            ],
            env=child_environment(whole.settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "Worker 'second' started!" in log.read_text(), 60, "it works")
        second.terminate()
        assert second.wait(10) == 0, log.read_text()
    finally:
        second.kill()


def kill_the_worker(whole: Up) -> None:
    """Kill it once it is no longer new, and see that it is started again."""
    up_since = time.monotonic()
    wait_until(lambda: time.monotonic() - up_since > 10, 20, "it is not new")
    (worker,) = whole.processes("cli\0work")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "worker has ended by itself" in whole.said, 30, "it is noticed")
    wait_until(lambda: bool(whole.processes("cli\0work\0")), 30, "it runs again")


async def ended(subject: str, whole: Up) -> list[tuple[FlowRun, list[str]]]:
    """The runs of a commit once they have ended, with the steps that were completed in them."""
    async with asyncio.timeout(60), whole.api() as client:
        while True:
            recent = await read_runs(client, datetime.now(UTC) - timedelta(hours=1))
            found = [run for run in recent if subject in run.name]
            steps = [await read_steps(client, run.id) for run in found]
            if all(map(_are_written_down, found, steps)):
                return list(zip(found, map(completed, steps), strict=True))
            await asyncio.sleep(0.2)


def _are_written_down(run: FlowRun, steps: list[TaskRun]) -> bool:
    """Whether it has ended, and so, as Prefect writes down a moment later, have its last steps."""
    last = [step for step in steps if step.flow_run_run_count == run.run_count]
    return all(one.state is not None and one.state.is_final() for one in [run, *last])


def completed(steps: list[TaskRun]) -> list[str]:
    return [step_name(step) for step in steps if step.state and step.state.is_completed()]
