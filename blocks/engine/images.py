"""Images on a Docker engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import docker.errors

from blocks.engine.builder import build_image
from blocks.engine.connection import Connection
from blocks.engine.context import build_context
from blocks.engine.faults import engine_faults, push_error
from domain.errors import EngineRefused
from domain.settings import BuildSettings

Auth = Mapping[str, str] | None
Log = Callable[[str], None]


class Images(Connection):
    """Building, naming and moving images."""

    def image_id(self, reference: str) -> str | None:
        """The image ID of a tag, digest reference or image ID; None where the engine has none."""
        try:
            with engine_faults(f"looking for {reference}"):
                return str(self._docker.images.get(reference).id)
        except EngineRefused as error:
            if isinstance(error.__cause__, docker.errors.NotFound):
                return None
            raise

    def image_labels(self, reference: str) -> dict[str, str]:
        """The labels of an image that the engine has."""
        with engine_faults(f"inspecting {reference}"):
            return dict(self._docker.images.get(reference).labels)

    def build(
        self,
        archive: IO[bytes],
        settings: BuildSettings,
        labels: Mapping[str, str],
        tag: str,
        log: Log,
    ) -> str:
        """Build the tar of a commit, under a tag; returns the image ID."""
        with build_context(archive, settings.dockerfile) as context:
            return build_image(self._docker.api, context, settings, labels, tag, log)

    def load_root(self, tar: IO[bytes], tag: str, changes: Sequence[str]) -> None:
        """Make an image from a tar of a root file system; `changes` are Dockerfile instructions."""
        repository, _, version = tag.rpartition(":")
        with engine_faults(f"importing {tag}"):
            self._docker.api.import_image_from_data(
                tar.read(), repository=repository, tag=version, changes=list(changes)
            )

    def tag(self, image_id: str, repository: str, tag: str) -> None:
        """Give an image a name."""
        with engine_faults(f"tagging {repository}:{tag}"):
            self._docker.api.tag(image_id, repository, tag)

    def push(self, repository: str, tag: str, auth: Auth) -> None:
        """Push a tag. The SDK never raises; each error line of its stream is an error here."""
        self._transfer(
            f"{repository}:{tag}",
            lambda: self._docker.api.push(
                repository, tag=tag, auth_config=auth or {}, stream=True, decode=True
            ),
        )

    def pull(self, reference: str, auth: Auth = None) -> None:
        """Pull an image by `repository@sha256:…` or `repository:tag`."""
        self._transfer(
            reference,
            lambda: self._docker.api.pull(
                reference, auth_config=auth or None, stream=True, decode=True
            ),
        )

    def remove_image(self, reference: str) -> None:
        """Remove a name of an image; one that is not there is fine."""
        try:
            with engine_faults(f"removing {reference}"):
                self._docker.images.remove(reference)
        except EngineRefused as error:
            if not isinstance(error.__cause__, docker.errors.NotFound):
                raise

    def _transfer(self, reference: str, start: Callable[[], Iterator[dict[str, Any]]]) -> None:
        try:
            with engine_faults(f"moving {reference}"):
                for message in start():
                    if "errorDetail" in message or "error" in message:
                        detail = message.get("errorDetail") or {}
                        raise push_error(reference, detail.get("message") or message["error"])
        except EngineRefused as error:
            raise push_error(reference, error.why) from error
