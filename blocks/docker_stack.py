"""A stack on a Docker host: one version serves behind a traffic switch."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field

from blocks.contracts import ImageRegistry, Log, Stack, Turn
from blocks.engine import Container, DockerHost, Engine
from blocks.stack_host import StackHost, serving_of
from blocks.switch import Turned
from domain.errors import SamebitsError
from domain.image import PublishedImage, Serving


class DockerStack(Stack, Block):
    """A stack on a Docker host: containers behind haproxy, switched without a failed request."""

    _block_type_name = "Samebits: Docker stack"
    _block_type_slug = "samebits-docker-stack"
    _description = "A stack on a Docker host: one version serves behind a traffic switch."
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    engine: DockerHost = Field(
        default_factory=DockerHost,
        description="Docker host that the stack runs on; without a URL the one of the worker",
        examples=[{"base_url": "tcp://10.0.0.5:2376"}],
    )
    port: int = Field(ge=1, le=65535, description="Port that the stack serves on", examples=[8081])
    address: str = Field(
        default="127.0.0.1", description="Address that the stack serves on", examples=["10.0.0.5"]
    )
    container_port: int = Field(
        default=8000,
        ge=1,
        le=65535,
        description="Port that the service listens on, in its container",
        examples=[3000],
    )
    health_path: str = Field(
        default="/health",
        pattern=r"^/[\w./~-]*$",
        description="Path that answers 2xx or 3xx once the service is ready",
        examples=["/healthz"],
    )
    health_timeout_seconds: float = Field(
        default=60,
        gt=0,
        description="How long a new version may take to become healthy",
        examples=[120],
    )
    drain_seconds: float = Field(
        default=30,
        ge=0,
        description="How long requests in the old version may take to end",
        examples=[60],
    )
    environment: dict[str, str] = Field(
        default_factory=dict,
        description="Settings that the service gets as environment variables",
        examples=[{"LOG_LEVEL": "info"}],
    )
    secrets: SecretDict | None = Field(
        default=None,
        description="Secrets that the service gets as environment variables",
        examples=[{"DATABASE_URL": "…"}],
    )
    memory_mib: int | None = Field(
        default=None, ge=16, description="Memory of the service, in MiB", examples=[512]
    )
    prefix: str = Field(
        default="samebits",
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="Begins the name of everything that this stack makes on the engine",
        examples=["my-team"],
    )
    switch_image: str = Field(
        default="haproxy:2.8-alpine",
        description="Image of the traffic switch",
        examples=["haproxy:2.8-alpine"],
    )

    def get_ready(self, name: str) -> None:
        """Open the shell in the switch, if it runs."""
        with suppress(SamebitsError), self._open(name) as on:  # the deploy meets it, too, and tells
            on.engine.open_shell(on.switch_name)

    def deploy(
        self, name: str, image: PublishedImage, registry: ImageRegistry, turn: Turn, log: Log
    ) -> Serving:
        """Put an image on the stack called `name`: start, wait for health, switch, drain, stop.

        Raises DeployFailed where the new version does not become healthy; the old one serves on.
        """
        with self._open(name) as on:
            if on.engine.image_id(image.reference) is None:
                on.engine.pull(image.reference, registry.auth())
            switch = on.take_turn(turn, log)
            old = on.current()
            if old and on.is_done(switch, old, image, turn.owner):
                log("An earlier try of this run has turned the traffic over: it is finished")
                new = old
            else:
                new = self._replace(on, switch, old, image, turn, log)
            on.drain_and_stop(switch, new, log)
            return on.verified(switch, new, image)

    @staticmethod
    def _replace(
        on: StackHost,
        switch: Turned,
        old: Container | None,
        image: PublishedImage,
        turn: Turn,
        log: Log,
    ) -> Container:
        """Start a new version, and turn the traffic over to it; returns its container."""
        # Of one that has stopped, e.g. with its engine, the order is kept, too.
        before = old or on.last_served()
        serving = serving_of(before) if before else None
        turn.admit(serving)
        on.remove_leftovers(switch, old)
        slot = on.other_slot(old)
        switch.shut(slot)
        log(f"Starting {image.reference} in slot {slot}")
        new = on.start(slot, image, turn.owner, switch.number)
        try:
            on.wait_for_health(switch, slot, new, log)
            # Git may have gone on meanwhile, and this commit may be gone from its branch.
            turn.admit(serving)
            log(f"Healthy: switching from {old.name if old else 'nothing'} to {new.name}")
            on.turn(switch, slot, new)
        except BaseException:
            on.give_back(switch, old, new)
            raise
        return new

    def serving(self, name: str) -> Serving | None:
        """What the stack called `name` runs now; None for nothing."""
        with self._open(name) as on:
            current = on.current()
            return serving_of(current) if current else None

    def resume(self, name: str) -> None:
        """Start again what `halt` stopped; nobody may deploy meanwhile."""
        with self._open(name) as on:
            on.resume()

    def revive(self, name: str) -> None:
        """The same, if nothing serves: what goes on, a deploy too, is left alone."""
        with self._open(name) as on:
            if not on.goes_on():
                on.resume()

    def halt(self, name: str) -> None:
        """Stop the stack's containers; `resume` starts them again."""
        with self._open(name) as on:
            for container in on.containers():
                on.engine.stop(container.name, grace_seconds=5)

    def destroy(self, name: str) -> None:
        """Remove all that the stack has on the engine."""
        with self._open(name) as on:
            for container in on.containers():
                on.engine.remove(container.name)
            on.engine.remove_network(on.prefix)

    @contextmanager
    def _open(self, name: str) -> Iterator[StackHost]:
        with Engine(self.engine) as engine:
            yield StackHost(self, engine, f"{self.prefix}-{name}")
