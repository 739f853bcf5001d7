"""Versions of the example service, published in the tests' registry."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blocks.contracts import ImageRegistry
from blocks.engine import Engine
from deployments import example
from domain.commit import Commit
from domain.image import PublishedImage
from domain.settings import BuildSettings
from tests.conftest import Origin

SETTINGS = BuildSettings(args={"BASE": "samebits/python:local"})
_numbers = itertools.count(1)


def service_files(version: str, needs: str = "") -> dict[str, str]:
    """The files of the example, as this version."""
    source = Path(example.SOURCE)
    files = {
        str(path.relative_to(source)): path.read_text()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return files | {"VERSION": version, "NEEDS": needs}


@contextmanager
def published(
    engine: Engine,
    registry: ImageRegistry,
    origin: Origin,
    version: str,
    needs: str = "",
    files: dict[str, str] | None = None,
    name: str = "",
) -> Iterator[PublishedImage]:
    """A published version of the example, in a repository of this name or of its own."""
    sha = origin.push(service_files(version, needs) | (files or {}), subject=version)
    repository = registry.repository(name or f"service-{next(_numbers)}")
    block = origin.block
    block.find(Commit(repository="hello", branch="master"))
    tag = f"{repository}:{sha}"
    # An image ID of its own: an engine that removes an image takes with it the name that another
    # process's build has just given to the same one.
    labels = {"samebits.test": tag}
    with block.archive("hello", sha) as archive:
        image = engine.build(archive, SETTINGS, labels, tag, lambda _: None)
    engine.push(repository, sha, registry.auth())
    manifest = registry.manifest(repository, sha)
    assert manifest
    found = PublishedImage(
        commit=Commit(repository="hello", branch="master", sha=sha, subject=version),
        image_id=image,
        repository=repository,
        digest=manifest.digest,
    )
    try:
        yield found
    finally:
        engine.remove_image(tag)
        engine.remove_image(found.reference)
