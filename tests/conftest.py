"""What tests share: a real engine, a real registry, a real git repository, free ports."""

import itertools
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from blocks.engine import DockerHost, Engine, Service
from blocks.registry import Registry
from blocks.repository import GitHubRepository
from deployments import example, host_images
from deployments.engine_start import running_engine
from deployments.settings import SystemSettings
from domain.errors import RegistryUnavailable, SamebitsError
from tests.npm import NpmMissing
from tests.slack import Slack, running_slack
from tests.waiting import wait_until

pytest_plugins = ["tests.fault_plugin"]


# Below those that connections are given. Tests run in processes side by side, and a port is often
# listened on minutes after it was chosen: each process takes from another hundred.
_PORTS = itertools.count(10_000 + os.getpid() % 200 * 100)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def unique() -> str:
    """Content that no engine has built before."""
    return uuid.uuid4().hex


@pytest.fixture(scope="session")
def name() -> str:
    """Begins the name of everything that this test session makes on the engine."""
    return f"samebits-test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def docker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    """A running engine; started here, and ended, where none answers."""
    with running_engine(tmp_path_factory.mktemp("engine") / "dockerd.log"):
        with Engine(DockerHost()) as engine:
            host_images.ensure_images(engine)
        yield DockerHost()


@pytest.fixture
def engine(docker_host: DockerHost) -> Iterator[Engine]:
    """A connection to the engine."""
    with Engine(docker_host) as connection:
        yield connection


@dataclass(frozen=True)
class RunningRegistry:
    """A registry of the tests' own, and the container that it runs in."""

    block: Registry
    container: str


@pytest.fixture(scope="session")
def running_registry(docker_host: DockerHost, name: str) -> Iterator[RunningRegistry]:
    """A real registry on a free port."""
    port, container = free_port(), f"{name}-registry"
    block = Registry(address=f"127.0.0.1:{port}")
    with Engine(docker_host) as engine:
        service = Service(
            container,
            host_images.registry().name,
            labels={"samebits.role": "registry"},
            ports={5000: ("127.0.0.1", port)},
        )
        engine.create(service)
        try:
            wait_until(lambda: _answers(block), 20)
            yield RunningRegistry(block, container)
        finally:
            engine.remove(container)


@pytest.fixture
def registry(running_registry: RunningRegistry) -> Registry:
    """The block of the tests' registry."""
    return running_registry.block


def remove_images(host: DockerHost, source: str) -> None:
    """Remove all that was built from a source repository, whatever its names."""
    with host.get_client() as client:
        label = f"org.opencontainers.image.source={source}"
        for image in client.images.list(filters={"label": label}):
            client.images.remove(image.id, force=True)


def remove_system(host: DockerHost, settings: SystemSettings) -> None:
    """Remove what a stopped system keeps on the engine: its registry, and what it built."""
    with Engine(host) as engine:
        engine.remove(f"{settings.name}-registry")
        engine.remove_volume(f"{settings.name}-registry")
        engine.remove_network(f"{settings.name}-registry")
    remove_images(host, str(example.bare_repository(settings)))


def _answers(registry: Registry) -> bool:
    try:
        registry.manifest(registry.repository("none"), "none")
    except RegistryUnavailable:
        return False
    except SamebitsError:
        return True
    return True


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SAMEBITS_HOME", str(folder))
    return folder


class Origin:
    """A bare git repository as a remote, and a clone to push from."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.work = folder / "origin.git", folder / "work"
        example.git("init", "--quiet", "--bare", "--initial-branch=master", str(self.bare))
        example.git("clone", "--quiet", str(self.bare), str(self.work))
        example.git("-C", str(self.work), "checkout", "--quiet", "-b", "master")

    @property
    def block(self) -> GitHubRepository:
        """The block of this repository."""
        return GitHubRepository(url=str(self.bare), webhook_secret="a long secret")

    def push(self, files: dict[str, str], branch: str = "master", subject: str = "A change") -> str:
        """Commit files, and push them to a branch; returns the SHA."""
        for path, text in files.items():
            target = self.work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        sha = example.commit(self.work, subject)
        self.push_ref(sha, branch)
        return sha

    def push_ref(self, sha: str, branch: str, *, force: bool = False) -> None:
        """Point a branch at a commit."""
        forced = ["--force"] if force else []
        example.git(
            "-C", str(self.work), "push", "--quiet", *forced, "origin", f"{sha}:refs/heads/{branch}"
        )


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """A git repository to push to."""
    return Origin(tmp_path)


@pytest.fixture(scope="session")
def running_channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slack]:
    """A running Slack for all tests."""
    try:
        with running_slack(tmp_path_factory.mktemp("slack")) as slack:
            yield slack
    except NpmMissing as error:
        pytest.skip(f"the Slack emulator cannot run: {error}")


@pytest.fixture
def slack(running_channel: Slack) -> Slack:
    """A Slack whose channel is empty."""
    running_channel.clear()
    return running_channel
