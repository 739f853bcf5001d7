"""The stacks that the demo plays on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blocks.docker_stack import DockerStack
from blocks.loading import load
from deployments.settings import SystemSettings


@dataclass
class DemoStacks(ABC):
    """Where master and release lead: the names of the two stacks."""

    stage: str
    prod: str

    @abstractmethod
    def address(self, stack: str) -> str:
        """Where a stack serves: `http://host:port/`."""

    @abstractmethod
    async def give_environment(self, stack: str, environment: dict[str, str]) -> None:
        """Give the service on a stack other environment variables, as its operator would."""


@dataclass
class DockerStacks(DemoStacks):
    """The stacks of the embedded default."""

    settings: SystemSettings

    def address(self, stack: str) -> str:
        """By the ports of the settings."""
        settings = self.settings
        port = {self.stage: settings.stage_port, self.prod: settings.prod_port}[stack]
        return f"http://127.0.0.1:{port}/"

    async def give_environment(self, stack: str, environment: dict[str, str]) -> None:
        """In the stack's block."""
        block = load(DockerStack, stack)
        block.environment = environment
        await block.save(stack, overwrite=True)


@contextmanager
def docker_stacks(settings: SystemSettings) -> Iterator[DemoStacks]:
    """The embedded default, which is there as soon as the system runs."""
    yield DockerStacks("stage", "prod", settings)
