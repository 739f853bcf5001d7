"""An engine of these tests' own, which they may kill.

A second engine needs a network namespace of its own: the two would take each other's bridges. So
these tests run in one, system and all: `python -m tests.own_network` puts them there.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.engine import DockerHost, Engine
from deployments import host_images
from deployments.engine_start import engine_answers
from deployments.processes import Child
from tests.own_network import MARK


class OwnEngine:
    """A dockerd that can be killed and started again, as a host's service manager would."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child = self._started()

    def kill(self) -> None:
        """SIGKILL, which leaves the containers alive, and a new start at once."""
        self._child._process.kill()
        self._child._process.wait()
        self._child = self._started()

    def stop(self) -> None:
        """End it, with all that runs on it."""
        self._child.stop(30)

    def _started(self) -> Child:
        program = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin")
        assert program
        for pid_file in self._folder.rglob("*.pid"):
            pid_file.unlink()
        argv = [
            program,
            f"--host={os.environ['DOCKER_HOST']}",
            f"--data-root={self._folder / 'data'}",
            f"--exec-root={self._folder / 'exec'}",
            f"--pidfile={self._folder / 'docker.pid'}",
        ]
        child = Child("dockerd", argv, os.environ, self._folder / "dockerd.log")
        child.wait_until(engine_answers, 60)
        return child


@pytest.fixture(scope="session")
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """The engine that everything here runs on."""
    if not os.environ.get(MARK):
        pytest.skip("needs a network namespace of its own: python -m tests.own_network")
    folder = tmp_path_factory.mktemp("engine")
    os.environ["DOCKER_HOST"] = f"unix://{folder / 'docker.sock'}"
    engine = OwnEngine(folder)
    try:
        with Engine(DockerHost()) as connection:
            host_images.ensure_images(connection)
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def docker_host(own_engine: OwnEngine) -> DockerHost:
    """The engine, in place of the one that other tests share."""
    assert own_engine
    return DockerHost()
