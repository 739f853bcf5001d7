"""What the ECS agent asks of the Docker engine: pull, run, look, end."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker.errors

Credentials = Callable[[], dict[str, str] | None]

LABEL = "samebits.ecs-agent"
_NANOSECONDS = 1_000_000_000
_LEAST_GRACE_SECONDS = 3
_MOST_LINES = 100


class CannotPull(Exception):
    """ECS's CannotPullContainerError.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_cannot_pull_image.html
    """

    def __init__(self, reference: str, why: str) -> None:
        if any(word in why for word in ("not found", "unknown", "does not exist")):
            why = f"{reference}: not found: {why}"
        super().__init__(
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
            f"failed to resolve ref {reference}: {why}"
        )


@dataclass(frozen=True)
class Pulled:
    """An image that the engine has fetched, and the digest that the registry called it by."""

    image_id: str
    digest: str


class TaskEngine:
    """The engine, with a network of the agent's own; `clean` removes all that was made."""

    def __init__(self, client: Any, credentials: Credentials, name: str, speed: float) -> None:
        self._client, self._credentials = client, credentials
        self.name, self._speed = name, speed
        self._labels = {LABEL: name}
        self._brought: set[str] = set()
        self._closed = threading.Event()

    def open(self) -> None:
        """Make the network."""
        self._client.networks.create(self.name, driver="bridge", labels=self._labels)

    def pull(self, reference: str) -> Pulled:
        """Ask the registry for an image, whether the engine has it or not; raises CannotPull."""
        repository, _, tag = reference.partition("@")
        if not tag:
            head, _, last = reference.rpartition("/")
            last, _, tag = last.partition(":")
            repository = f"{head}/{last}" if head else last
        known = self._has(reference)
        digest = ""
        try:
            for line in self._client.api.pull(
                repository,
                tag=tag or "latest",
                auth_config=self._credentials(),
                stream=True,
                decode=True,
            ):
                if "error" in line:
                    raise CannotPull(reference, line["error"])
                status = line.get("status", "")
                if status.startswith("Digest: "):
                    digest = status.removeprefix("Digest: ")
        except docker.errors.APIError as error:
            raise CannotPull(reference, str(error.explanation or error)) from error
        if not known:
            self._brought.add(reference)
        return Pulled(self._client.images.get(reference).id, digest)

    def _has(self, reference: str) -> bool:
        try:
            self._client.images.get(reference)
        except docker.errors.ImageNotFound:
            return False
        return True

    def run(
        self,
        name: str,
        image_id: str,
        definition: Mapping[str, Any],
        *,
        folders: Mapping[str, str],
        on_host_network: bool,
    ) -> str:
        """Start a container as a container definition says; returns its id.

        `folders` are those of the host, by the name of their volume.

        Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ContainerDefinition.html
        """
        container = self._client.containers.create(
            image_id,
            name=f"{self.name}-{name}",
            command=definition.get("command") or None,
            entrypoint=definition.get("entryPoint") or None,
            environment={pair["name"]: pair["value"] for pair in definition.get("environment", [])},
            user=definition.get("user"),
            working_dir=definition.get("workingDirectory"),
            healthcheck=self._health_check(definition.get("healthCheck")),
            labels=self._labels,
            network="host" if on_host_network else self.name,
            volumes=[
                f"{folders[point['sourceVolume']]}:{point['containerPath']}"
                + (":ro" if point.get("readOnly") else "")
                for point in definition.get("mountPoints", [])
            ],
        )
        container.start()
        return str(container.id)

    def _health_check(self, check: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """ECS's health check as Docker's; only the pauses are shortened, not the time-out."""
        if not check:
            return None
        seconds = _NANOSECONDS / self._speed
        return {
            "test": check["command"],
            "interval": int(check.get("interval", 30) * seconds),
            "timeout": int(check.get("timeout", 5) * _NANOSECONDS),
            "retries": check.get("retries", 3),
            "start_period": int(check.get("startPeriod", 0) * seconds),
        }

    def look(self, container: str) -> dict[str, Any]:
        """The engine's `State` of a container, with its address; ended where it is gone."""
        try:
            found = self._client.api.inspect_container(container)
        except docker.errors.NotFound:
            return {"Status": "exited", "ExitCode": 137, "Address": ""}
        networks = found["NetworkSettings"]["Networks"]
        address = networks.get(self.name, {}).get("IPAddress", "")
        return {**found["State"], "Address": address}

    def end(self, container: str, definition: Mapping[str, Any]) -> int:
        """Stop a container, with the grace that its definition gives it; returns the exit code."""
        grace = max(_LEAST_GRACE_SECONDS, definition.get("stopTimeout", 30) / self._speed)
        with suppress(docker.errors.NotFound):
            self._client.api.stop(container, timeout=0 if self._closed.is_set() else int(grace))
        return int(self.look(container)["ExitCode"])

    def log(self, container: str) -> list[str]:
        """The last lines that a container has written."""
        with suppress(docker.errors.NotFound):
            log: bytes = self._client.api.logs(container, tail=_MOST_LINES)
            return log.decode(errors="replace").splitlines()
        return []

    def remove(self, container: str) -> None:
        """Remove a container that has ended."""
        with suppress(docker.errors.NotFound):
            self._client.api.remove_container(container, force=True, v=True)

    def hurry(self) -> None:
        """From now on containers end without grace."""
        self._closed.set()

    def clean(self) -> None:
        """Remove every container, the network, and the images that were fetched here."""
        for container in self._client.containers.list(
            all=True, filters={"label": f"{LABEL}={self.name}"}
        ):
            self.remove(container.id)
        for network in self._client.networks.list(filters={"label": f"{LABEL}={self.name}"}):
            network.remove()
        for reference in self._brought:
            with suppress(docker.errors.APIError):
                self._client.images.remove(reference, force=True)
