"""What takes space on a Docker engine, and removing it."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker.errors

from blocks.engine.connection import Connection
from blocks.engine.faults import engine_faults
from domain.image import KEY_LABEL
from domain.pruning import StoredImage

_THIS_HOST = "http+docker://localhost"
"""The SDK's base URL of a Unix socket"""
_RESERVED_SPACE_SINCE = (1, 48)


class Pruning(Connection):
    """Finding and removing what was built here. What others remove meanwhile is fine."""

    def folder(self) -> Path | None:
        """The folder that the engine writes to, None for that of another host."""
        with engine_faults("asking where it writes"):
            if self._docker.api.base_url != _THIS_HOST:
                return None
            folder = Path(self._docker.info()["DockerRootDir"])
        return folder if folder.exists() else None

    def built_images(self) -> list[StoredImage]:
        """The images that a pipeline has built, on this system or on another."""
        with engine_faults("listing images"):
            # The SDK's own list() raises where one is removed meanwhile.
            found = self._docker.api.images(filters={"label": KEY_LABEL})
        ids = dict.fromkeys(image["Id"] for image in found)
        return [image for image_id in ids if (image := self.built_image(image_id))]

    def built_image(self, image_id: str) -> StoredImage | None:
        """An image as it is now, None for one that is gone."""
        with engine_faults(f"inspecting {image_id}"), suppress(docker.errors.NotFound):
            return _stored(self._docker.api.inspect_image(image_id))
        return None

    def take_again(self, image_id: str) -> None:
        """Write down that a built image is used now: `used` of it moves."""
        image = self.built_image(image_id)
        for name in image.names if image else ():
            repository, _, key = name.rpartition(":")
            if image and key == image.labels.get(KEY_LABEL):
                with engine_faults(f"tagging {name}"):
                    self._docker.api.tag(image_id, repository, key)

    def images_in_use(self) -> frozenset[str]:
        """The image IDs of all containers, running or not."""
        with engine_faults("listing containers"):
            return frozenset(c["ImageID"] for c in self._docker.api.containers(all=True))

    def remove_built(self, image: StoredImage) -> bool:
        """Remove an image with all its names; False if it stays, since something uses it now."""
        with engine_faults(f"removing {image.id}"):
            for name in image.names or (image.id,):
                try:
                    self._docker.api.remove_image(name)
                except docker.errors.NotFound:
                    continue  # with its last tag, an image's digests go, too
                except docker.errors.APIError as error:
                    if error.status_code != 409:
                        raise
                    return False
        return True

    def prune_cache(self, *, unused_days: float, most_mib: int) -> int:
        """Remove what no build has used for so long, and of the rest what was not used longest,
        until the cache has its size. Returns how many bytes that freed.
        """
        unused = {"filters": json.dumps({"until": [f"{unused_days * 24 * 3600:.0f}s"]})}
        return self._prune_cache(unused) + self._prune_cache({self._keep(): str(most_mib << 20)})

    def _prune_cache(self, what: dict[str, str]) -> int:
        api = self._docker.api
        with engine_faults("pruning the build cache"):
            answer = api._post(  # noqa: SLF001 - the SDK's own call knows no reserved-space
                api._url("/build/prune"),  # noqa: SLF001
                params={"all": "1", **what},
                timeout=(10, None),
            )
            pruned: dict[str, Any] = api._result(answer, json=True)  # noqa: SLF001
        return int(pruned.get("SpaceReclaimed") or 0)

    def _keep(self) -> str:
        """What the engine calls the size that the cache may keep; none to keep would be all gone.

        Source: https://docs.docker.com/reference/api/engine/version-history/#v148-api-changes
        """
        version = tuple(int(part) for part in self._docker.api._version.split("."))  # noqa: SLF001
        return "reserved-space" if version >= _RESERVED_SPACE_SINCE else "keep-storage"


def _stored(attrs: dict[str, Any]) -> StoredImage:
    times = (attrs.get("Created"), (attrs.get("Metadata") or {}).get("LastTagTime"))
    names = [*(attrs.get("RepoTags") or ()), *(attrs.get("RepoDigests") or ())]
    return StoredImage(
        id=attrs["Id"],
        names=tuple(name for name in names if not name.startswith("<none>")),
        labels=(attrs.get("Config") or {}).get("Labels") or {},
        used=max(_time(text) for text in times),
        size_bytes=attrs.get("Size") or 0,
    )


def _time(text: str | None) -> datetime:
    """A time of the engine's; it has nanoseconds, and year 1 for never."""
    if not text or text.startswith("0001-"):
        return datetime.min.replace(tzinfo=UTC)
    return datetime.fromisoformat(text)
