"""What may go from a host: images that no stack, no container and no recent run needs."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from domain.image import KEY_LABEL, REVISION_LABEL, SOURCE_LABEL
from domain.names import is_sha

_BUILT_OR_PUBLISHED = re.compile(
    r"[^@]+/(?P<repository>[^/@:]+)(?::(?:[0-9a-f]{40}|[0-9a-f]{64})|@sha256:[0-9a-f]{64})\Z"
)
"""`samebits-build/REPOSITORY:KEY`, `REGISTRY/REPOSITORY:SHA` or `REGISTRY/REPOSITORY@sha256:…`"""
_KEY = re.compile(r"[0-9a-f]{64}\Z")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class StoredImage(BaseModel):
    """An image as an engine has it."""

    model_config = ConfigDict(frozen=True)

    id: str
    names: tuple[str, ...] = ()
    """`repository:tag`, then `repository@digest`"""
    labels: dict[str, str] = {}
    used: datetime
    """When it was made or last tagged, whichever is later: each step that takes it tags it anew"""
    size_bytes: int = 0
    """With the layers that other images have, too"""

    @property
    def digests(self) -> set[str]:
        """What registries call it; containerd's store calls it so, too."""
        return {self.id, *(name.partition("@")[2] for name in self.names if "@" in name)}

    @property
    def shas(self) -> set[str]:
        """The commits that it is of, as far as it says so."""
        tags = {name.rpartition(":")[2] for name in self.names if "@" not in name}
        return {sha for sha in (self.labels.get(REVISION_LABEL, ""), *tags) if is_sha(sha)}


class Needed(BaseModel):
    """What stays, however old: by image ID, by digest and by commit."""

    model_config = ConfigDict(frozen=True)

    image_ids: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    shas: frozenset[str] = frozenset()


def superfluous(
    images: Iterable[StoredImage],
    sources: Mapping[str, Iterable[str]],
    needed: Needed,
    before: datetime,
) -> list[StoredImage]:
    """The images that nobody needs and no step has taken since `before`.

    `sources` are the repositories of this system: URL to names. Only what was built here from one
    of them goes, and only if nobody has given it a name of another kind: another system, or a
    person, may use the same engine.
    """
    return [
        image
        for image in images
        if image.used < before
        and _is_ours(image, sources)
        and image.id not in needed.image_ids
        and not image.digests & needed.digests
        and not image.shas & needed.shas
    ]


def _is_ours(image: StoredImage, sources: Mapping[str, Iterable[str]]) -> bool:
    repositories = set(sources.get(image.labels.get(SOURCE_LABEL, ""), ()))
    found = [_BUILT_OR_PUBLISHED.match(name) for name in image.names]
    return (
        bool(repositories)
        and bool(_KEY.match(image.labels.get(KEY_LABEL, "")))
        and all(match and match["repository"] in repositories for match in found)
    )


class Pruned(BaseModel):
    """What went, for people to read."""

    model_config = ConfigDict(frozen=True)

    images: tuple[StoredImage, ...] = ()
    cache_bytes: int = 0
    containers: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    locks: int = 0
    freed_bytes: int | None = None
    """By which more is free on the engine's disk than before; None where that cannot be seen"""
    notes: tuple[str, ...] = ()
    """What was left alone, and why"""

    @property
    def summary(self) -> str:
        """One line."""
        parts = [
            _count(len(self.images), "image"),
            f"{size(self.cache_bytes)} of build cache" if self.cache_bytes else "",
            _count(len(self.containers), "container of tests", "containers of tests"),
            _count(len(self.mirrors), "mirror"),
            _count(self.locks, "lock file"),
        ]
        went = ", ".join(part for part in parts if part)
        if not went:
            return "Nothing was to be removed."
        if self.freed_bytes is None:
            return f"Removed {went}."
        return f"Removed {went}; {size(self.freed_bytes)} more are free."

    def markdown(self) -> str:
        """All of it, as Markdown."""
        lines = [self.summary, *(f"\n{note}" for note in self.notes)]
        if self.images:
            lines += ["\n| image | commit | last used | size |", "|---|---|---|---|"]
            lines += [_row(image) for image in self.images]
            lines += ["\nA size is with the layers that other images have, too."]
        for title, names in (("Containers of tests", self.containers), ("Mirrors", self.mirrors)):
            if names:
                lines.append(f"\n{title}: {', '.join(f'`{name}`' for name in names)}")
        return "\n".join(lines) + "\n"


def size(count: float) -> str:
    """A number of bytes, as people read it."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit < 2 else f"{count:.1f} {_UNITS[unit]}"


def _row(image: StoredImage) -> str:
    name = image.names[0] if image.names else image.id
    # The keys and digests at the ends of names are long; their beginnings tell them apart.
    short = re.sub(r"([0-9a-f]{12})[0-9a-f]+\Z", r"\1…", name)
    commit = image.labels.get(REVISION_LABEL, "")[:8]
    return f"| `{short}` | {commit} | {image.used:%Y-%m-%d} | {size(image.size_bytes)} |"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}" if number else ""
