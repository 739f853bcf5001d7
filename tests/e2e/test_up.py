"""`samebits up`, as a person runs it."""

import asyncio
import contextlib
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

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import temporary_settings

from blocks.docker_stack import DockerStack
from blocks.engine import Container, DockerHost, Engine
from blocks.prefect_api import prefect_api, read_runs, read_steps, step_name
from deployments import example
from deployments.environment import client_settings
from deployments.settings import SystemSettings
from domain.marks import restarts
from domain.message import STEPS
from tests.conftest import free_port, remove_images, unique
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture
def up_name(name: str) -> str:
    """Name of the system that is started here."""
    return f"{name}-up"


@pytest.fixture
def example_bare(tmp_path: Path) -> Path:
    """The bare repository that the system makes."""
    return example.bare_repository(SystemSettings(home=tmp_path / "home"))


@pytest.fixture
def variables(
    docker_host: DockerHost, tmp_path: Path, up_name: str, example_bare: Path
) -> Iterator[dict[str, str]]:
    """The environment of that system; afterwards nothing of it is left on the engine."""
    ports = {
        f"SAMEBITS_{part}_PORT": str(free_port())
        for part in ("PREFECT", "RECEIVER", "REGISTRY", "STAGE", "PROD")
    }
    home = {"SAMEBITS_HOME": str(tmp_path / "home"), "SAMEBITS_NAME": up_name}
    example.take_as_known(SystemSettings(home=tmp_path / "home"))
    yield os.environ | ports | home
    with Engine(docker_host) as engine:
        engine.remove(f"{up_name}-registry")
        engine.remove_volume(f"{up_name}-registry")
        engine.remove_network(f"{up_name}-registry")
    remove_images(docker_host, str(example_bare))


def up(variables: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "up"],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.mark.parametrize("part", ["PREFECT", "RECEIVER", "REGISTRY", "STAGE"])
def test_a_port_that_is_taken_is_one_clear_message_and_nothing_is_left(
    part: str, docker_host: DockerHost, variables: dict[str, str], up_name: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        variables[f"SAMEBITS_{part}_PORT"] = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", "up"],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 1
    assert re.match(rf"Port \d+ is taken.*SAMEBITS_{part}_PORT=… make up\n\Z", done.stderr)
    with Engine(docker_host) as engine:
        assert engine.container(f"{up_name}-registry") is None


class Up:
    """A system that is started as a person starts it, and what can be seen of it."""

    def __init__(self, variables: dict[str, str], bare: Path, folder: Path) -> None:
        self.variables, self.bare, self.folder = variables, bare, folder
        self.log, self.home = folder / "up.log", folder / "home"

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def told(self) -> str:
        """What the channel was told."""
        channel = self.home / "channel.jsonl"
        return channel.read_text() if channel.exists() else ""

    def serves(self, version: str) -> bool:
        """Whether the stack `stage` serves this version."""
        try:
            url = f"http://127.0.0.1:{self.variables['SAMEBITS_STAGE_PORT']}/"
            return version in httpx.get(url, trust_env=False, timeout=2).text
        except httpx.HTTPError:
            return False

    @contextlib.contextmanager
    def running(self) -> "Iterator[subprocess.Popen[bytes]]":
        """Up, and then down by Ctrl-C if it was not killed before."""
        self.log.unlink(missing_ok=True)
        process = up(self.variables, self.log)
        try:
            wait_until(lambda: "Ctrl-C stops" in self.said, 150, "it is up")
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(200)
        assert code in (0, -signal.SIGKILL), self.said
        assert "Traceback" not in self.said
        assert not self.processes()

    def processes(self, words: str = "") -> list[int]:
        """The processes of this system whose command holds these words."""
        return [pid for pid, command in processes_of(str(self.home)) if words in command]

    def push(self, branch: str, version: str, seconds: int) -> str:
        """Push a version whose tests take so long; returns the SHA."""
        work = self.folder / branch.replace("/", "-")
        example.git("clone", "--quiet", str(self.bare), str(work))
        (work / "Makefile").write_text(f"test:\n\tsleep {seconds}\n")
        (work / "VERSION").write_text(version)
        sha = example.commit(work, version)
        example.git("-C", str(work), "push", "--quiet", "origin", f"{sha}:refs/heads/{branch}")
        return sha


@pytest.fixture
def whole(
    docker_host: DockerHost,
    variables: dict[str, str],
    example_bare: Path,
    tmp_path: Path,
    up_name: str,
) -> Iterator[Up]:
    """A system; afterwards its stacks are gone."""
    yield Up(variables, example_bare, tmp_path)
    for stack in ("stage", "prod"):
        port = int(variables[f"SAMEBITS_{stack.upper()}_PORT"])
        DockerStack(port=port, prefix=up_name).destroy(stack)


def test_what_is_cut_off_by_a_stop_is_told_and_what_a_power_cut_ends_goes_on_by_itself(
    whole: Up, engine: Engine, up_name: str
) -> None:
    def tests(sha: str = "") -> list[Container]:
        labels = {"samebits.role": "test", "samebits.system": up_name}
        return engine.containers(
            labels | ({"org.opencontainers.image.revision": sha} if sha else {})
        )

    with whole.running():
        endless = whole.push("feature/endless", unique(), 600)
        wait_until(lambda: bool(tests(endless)), 120, "tests run")
    assert not tests()
    registry = engine.container(f"{up_name}-registry")
    assert registry
    assert not registry.running
    with whole.running():
        wait_until(lambda: "system was stopped" in whole.told, 30, "told the end")
        a_worker_with_sigint_ignored_stops(whole)
        kill_the_worker(whole)
        version = unique()
        sha = whole.push("master", version, 5)
        wait_until(lambda: bool(tests(sha)), 120, "tests run")
        (left,) = tests(sha)
        cut_the_power(whole)
        assert [container.id for container in tests(sha)] == [left.id]
    with whole.running():
        wait_until(lambda: whole.serves(version), 120, "it is deployed")
        assert left.id not in [container.id for container in tests()]
        ((run, steps),) = asyncio.run(ended(version, whole))
        assert (run.run_count, restarts(run.labels)) == (2, 1)
        assert (set(steps), steps.count("deploy")) == (set(STEPS), 1)
        wait_until(lambda: f"passed* (attempt 2)\\n`{sha[:8]}`" in whole.told, 30, "told the end")


def a_worker_with_sigint_ignored_stops(whole: Up) -> None:
    """One that a script has started in the background, beside the one that is there."""
    variables = whole.variables | {
        "PREFECT_API_URL": f"http://127.0.0.1:{whole.variables['SAMEBITS_PREFECT_PORT']}/api",
        "PREFECT_API_AUTH_STRING": "samebits:" + (whole.home / "api.password").read_text(),
    }
    log = whole.folder / "second.log"
    with log.open("wb") as output:
        second = subprocess.Popen(
            [
                "sh",
                "-c",
                "trap '' INT; exec \"$0\" -m deployments.cli work --name second",
                sys.executable,
            ],
            env=variables,
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


def cut_the_power(whole: Up) -> None:
    """Kill everything at once, but for the containers: none sees another one die."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in whole.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    wait_until(lambda: not whole.processes(), 10, "all are dead")


async def ended(subject: str, whole: Up) -> list[tuple[FlowRun, list[str]]]:
    """The runs of a commit once they have ended, with the steps that were completed in them."""
    port = int(whole.variables["SAMEBITS_PREFECT_PORT"])
    settings = SystemSettings(home=whole.home, prefect_port=port)
    with temporary_settings(client_settings(settings)):
        async with asyncio.timeout(60), prefect_api() as client:
            while True:
                recent = await read_runs(client, datetime.now(UTC) - timedelta(hours=1))
                found = [run for run in recent if subject in run.name]
                if all(run.state and run.state.is_final() for run in found):
                    return [(run, await completed(client, run)) for run in found]


async def completed(client: PrefectClient, run: FlowRun) -> list[str]:
    steps = await read_steps(client, run.id)
    return [step_name(step) for step in steps if step.state and step.state.is_completed()]


def processes_of(home: str) -> list[tuple[int, str]]:
    """The processes whose environment names this data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"SAMEBITS_HOME={home}\0" in text:
                found.append((int(entry.name), (entry / "cmdline").read_text()))
    return found
