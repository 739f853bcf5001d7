"""One running system for all end-to-end tests: real processes, free ports, a folder of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker

from blocks.docker_stack import DockerStack
from blocks.engine import DockerHost
from blocks.loading import load_all
from blocks.prefect_api import prefect_api
from deployments import example
from deployments.demo_watch import Watch
from deployments.settings import SystemSettings
from deployments.system import System
from tests.conftest import free_port, remove_system


@pytest.fixture(scope="session", autouse=True)
def silent() -> None:
    """These tests tell Prefect of no event: its client would tell each server the last one's."""
    EventsWorker.set_client_override(NullEventsClient)


@pytest.fixture(scope="session")
def settings(name: str, tmp_path_factory: pytest.TempPathFactory) -> SystemSettings:
    """Settings of the system that most tests share."""
    return free_settings(name, tmp_path_factory.mktemp("home"))


def free_settings(name: str, home: Path) -> SystemSettings:
    """Settings that collide with nothing."""
    return SystemSettings(
        home=home,
        name=name,
        prefect_port=free_port(),
        receiver_port=free_port(),
        registry_port=free_port(),
        stage_port=free_port(),
        prod_port=free_port(),
    )


@pytest.fixture(scope="session")
def system(settings: SystemSettings, docker_host: DockerHost) -> Iterator[System]:
    """The running system; afterwards nothing of it is left."""
    stacks: dict[str, DockerStack] = {}
    example.take_as_known(settings)
    try:
        with System(settings, print).running() as running:
            stacks = asyncio.run(_stacks())
            yield running
    finally:
        for stack_name, stack in stacks.items():
            stack.destroy(stack_name)
        remove_system(docker_host, settings)


async def _stacks() -> dict[str, DockerStack]:
    async with prefect_api() as client:
        return await load_all(client, DockerStack)


@pytest.fixture
async def watch(system: System) -> AsyncIterator[Watch]:
    """Looks at the system from outside."""
    async with prefect_api() as client:
        yield Watch(system.settings, client)


class Clone:
    """A clone of the example's repository, to push from."""

    def __init__(self, settings: SystemSettings, folder: Path) -> None:
        self.settings, self.work = settings, folder / "clone"
        bare = str(example.bare_repository(settings))
        example.git("clone", "--quiet", bare, str(self.work))
        self.git("checkout", "--quiet", "--detach", "origin/master")
        self.write(
            {
                str(path.relative_to(example.SOURCE)): path.read_text()
                for path in example.SOURCE.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
        )

    def git(self, *arguments: str) -> str:
        """Run git here."""
        return example.git("-C", str(self.work), *arguments)

    def write(self, files: dict[str, str]) -> None:
        """Write files."""
        for path, text in files.items():
            target = self.work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def commit(self, files: dict[str, str], subject: str) -> str:
        """Commit files; returns the SHA."""
        self.write(files)
        return example.commit(self.work, subject)

    def push(self, sha: str, branch: str, *, force: bool = False) -> None:
        """Point a branch at a commit; the hook delivers it."""
        forced = ["--force"] if force else []
        self.git("push", "--quiet", *forced, "origin", f"{sha}:refs/heads/{branch}")


@pytest.fixture
def clone(system: System, tmp_path: Path) -> Clone:
    """A clone with the files of the example on top of master."""
    return Clone(system.settings, tmp_path)
