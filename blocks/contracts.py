"""What every registry and every stack can do, whichever system it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from domain.findings import Findings
from domain.image import Manifest, PublishedImage, Serving

Log = Callable[[str], None]


class ImageRegistry(ABC):
    """A registry that tested images are published to."""

    @abstractmethod
    def repository(self, name: str) -> str:
        """The full name of a repository here: `registry/namespace/name`."""

    @abstractmethod
    def auth(self) -> dict[str, str] | None:
        """What the engine is told when it pushes or pulls; None for nothing."""

    @abstractmethod
    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """The manifest of a tag or digest in a repository (its full name), None for none."""

    def admit(self, image: PublishedImage, log: Log) -> None:  # noqa: B027 - most registries do not scan
        """Return if this image may be deployed; raises VulnerableImage."""

    def mark_deployed(self, image: PublishedImage, stack: str) -> None:  # noqa: B027 - most delete nothing
        """Keep the image of a stack from what the registry deletes by itself."""

    def findings(self, image: PublishedImage) -> Findings | None:  # noqa: ARG002
        """What the registry's scan has found by now; None where it has no result."""
        return None


@dataclass(frozen=True)
class Turn:
    """A run's turn to deploy to a stack."""

    owner: str
    """ID of the run"""
    may_replace: Callable[[Serving | None], None]
    begun: Callable[[], None] = lambda: None
    """Returns once it is written on the run that it deploys; raises Superseded or RunEnded"""

    def admit(self, serving: Serving | None) -> None:
        """Return if the run deploys, and the image may take the place of what serves now.

        Raises Superseded or RunEnded. Before it has returned, nothing that serves may be changed.
        """
        self.begun()
        self.may_replace(serving)


class Stack(ABC):
    """Where a commit is deployed to."""

    def get_ready(self, name: str) -> None:  # noqa: B027 - most have nothing to prepare
        """Begin what takes time and changes nothing; then a run waits for its turn to deploy."""

    @abstractmethod
    def deploy(
        self, name: str, image: PublishedImage, registry: ImageRegistry, turn: Turn, log: Log
    ) -> Serving:
        """Run an image on the stack called `name`; returns what was seen to serve.

        What serves now is asked whether it gives way (`turn.admit`) as late as the stack allows. A
        deploy that an earlier try of the same run has done is only finished. Raises DeployFailed
        where the new version does not serve, and Overtaken where a later deploy has begun.
        """

    @abstractmethod
    def serving(self, name: str) -> Serving | None:
        """What the stack called `name` runs now; None for nothing."""
