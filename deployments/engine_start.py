"""A Docker engine to work with: the one that runs, else one that is started here."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from blocks.engine import DockerHost, Engine
from deployments.processes import Child
from domain.errors import EngineUnavailable, MissingTool

_PID_FILES = {
    Path("/var/run/docker.pid"): "dockerd",
    Path("/var/run/docker/containerd/containerd.pid"): "containerd",
}


def engine_answers() -> bool:
    """Whether an engine can be reached as the environment says (DOCKER_HOST, or the socket)."""
    try:
        with Engine(DockerHost()) as engine:
            engine.containers({"samebits.role": "none"})
    except EngineUnavailable:
        return False
    return True


def start_engine(environment: Mapping[str, str], log: Path) -> Child | None:
    """Start dockerd if no engine answers; None if one does already.

    Raises MissingTool where none runs and none may be started.
    """
    if engine_answers():
        return None
    may_start = (
        sys.platform == "linux"
        and os.geteuid() == 0
        and not os.environ.get("DOCKER_HOST")
        and not Path("/run/systemd/system").exists()
    )
    program = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin")
    if not may_start or not program:
        raise MissingTool(
            "No Docker engine answers.",
            hint="Start Docker (systemctl start docker, or Docker Desktop), or set DOCKER_HOST; on "
            "Debian or Ubuntu `make setup` as root installs one.",
        )
    for pid_file, name in _PID_FILES.items():
        forget_dead(pid_file, name)
    child = Child("dockerd", [program], environment, log)
    child.wait_until(engine_answers, 60)
    return child


def forget_dead(pid_file: Path, program: str) -> None:
    """Remove the pid file of a program that was killed; it keeps the next one from starting.

    Another process may have got its number since, surely so after a power cut.
    """
    try:
        pid = pid_file.read_text().strip()
    except OSError:
        return
    try:
        lives = Path(f"/proc/{pid}/comm").read_text().strip() == program
    except OSError:
        lives = False
    if not lives:
        pid_file.unlink(missing_ok=True)


@contextmanager
def running_engine(log: Path) -> Iterator[None]:
    """An engine for as long as the block lasts; only one that was started here ends with it."""
    child = start_engine(dict(os.environ), log)
    try:
        yield
    finally:
        if child:
            child.stop(30)


if __name__ == "__main__":
    sys.exit(not engine_answers())
