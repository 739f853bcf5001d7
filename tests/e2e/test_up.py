"""`samebits up`, as a person runs it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.engine import Container, DockerHost, Engine
from deployments import example
from deployments.settings import SystemSettings
from tests.conftest import free_port, remove_images
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


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
            timeout=60,
        )
    assert done.returncode == 1
    assert re.match(rf"Port \d+ is taken.*SAMEBITS_{part}_PORT=… make up\n\Z", done.stderr)
    with Engine(docker_host) as engine:
        assert engine.container(f"{up_name}-registry") is None


def test_ctrl_c_stops_all_that_it_started_and_the_next_start_tells_what_was_cut_off(
    docker_host: DockerHost,
    tmp_path: Path,
    variables: dict[str, str],
    up_name: str,
    example_bare: Path,
) -> None:
    log, channel = tmp_path / "up.log", tmp_path / "home" / "channel.jsonl"
    for start in (1, 2):
        log.unlink(missing_ok=True)
        process = up(variables, log)
        try:
            wait_until(lambda: "Ctrl-C stops" in log.read_text(), 120, "it is up")
            if start == 1:
                push_endless_tests(example_bare, tmp_path / "clone")
                wait_until(lambda: bool(running_tests(docker_host, up_name)), 60, "tests run")
            else:
                wait_until(lambda: "system was stopped" in channel.read_text(), 30, "told the end")
                kill_the_worker(variables["SAMEBITS_HOME"], log)
        finally:
            os.kill(process.pid, signal.SIGINT)
            code = process.wait(60)
        assert code == 0, log.read_text()
        assert "Traceback" not in log.read_text()
        assert not processes_of(variables["SAMEBITS_HOME"])
        assert not running_tests(docker_host, up_name)
    with Engine(docker_host) as engine:
        registry = engine.container(f"{up_name}-registry")
        assert registry
        assert not registry.running


def kill_the_worker(home: str, log: Path) -> None:
    """Kill it once it is no longer new, and see that it is started again."""
    up_since = time.monotonic()
    wait_until(lambda: time.monotonic() - up_since > 10, 20, "it is not new")
    (worker,) = [pid for pid, words in processes_of(home) if "worker\0start" in words]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "worker has ended by itself" in log.read_text(), 30, "it is noticed")
    wait_until(
        lambda: [pid for pid, words in processes_of(home) if "worker\0start" in words] != [],
        30,
        "it runs again",
    )


def push_endless_tests(bare: Path, work: Path) -> None:
    example.git("clone", "--quiet", str(bare), str(work))
    (work / "Makefile").write_text("test:\n\tsleep 600\n")
    example.commit(work, "Endless")
    example.git("-C", str(work), "push", "--quiet", "origin", "HEAD:refs/heads/feature/endless")


def running_tests(docker_host: DockerHost, system: str) -> list[Container]:
    with Engine(docker_host) as engine:
        return engine.containers({"samebits.role": "test", "samebits.system": system})


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
