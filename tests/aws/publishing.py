"""The publish step as flows/steps.py does it, on small images that nobody has seen."""

import io
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

from blocks.contracts import ImageRegistry
from blocks.engine import DockerHost, Engine
from deployments import example
from domain.commit import Commit
from domain.image import PublishedImage, TestedImage, same_bits


class Publishing:
    """An engine with images to publish."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.made: list[str] = []
        """Image IDs"""

    def image(self, repository: str = example.NAME, sha: str = "") -> TestedImage:
        """A new image, as if it was tested."""
        sha, name = sha or secrets.token_hex(20), f"samebits-test/{secrets.token_hex(8)}:it"
        with io.BytesIO() as buffer:
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                member = tarfile.TarInfo("random")
                member.size = 4096
                tar.addfile(member, io.BytesIO(secrets.token_bytes(member.size)))
            buffer.seek(0)
            self._engine.load_root(buffer, name, ["CMD x"])
        image_id = self._engine.image_id(name)
        assert image_id
        self.made.append(image_id)
        commit = Commit(repository=repository, branch="master", sha=sha, subject="It")
        return TestedImage(commit=commit, image_id=image_id)

    def push(self, registry: ImageRegistry, image: TestedImage) -> str:
        """Push an image under its SHA; returns the repository."""
        repository = registry.repository(image.commit.repository)
        self._engine.tag(image.image_id, repository, image.commit.sha)
        self._engine.push(repository, image.commit.sha, registry.auth())
        return repository

    def publish(self, registry: ImageRegistry, image: TestedImage) -> PublishedImage:
        """Push an image that is not published yet, and look what the registry has then."""
        repository, sha = registry.repository(image.commit.repository), image.commit.sha
        assert registry.manifest(repository, sha) is None
        self.push(registry, image)
        found = registry.manifest(repository, sha)
        assert found
        return same_bits(image, found, repository)

    def forget(self, image: PublishedImage) -> None:
        """The engine has the image no more, under no name."""
        _remove([image.image_id])
        assert self._engine.image_id(image.image_id) is None


@contextmanager
def publishing(engine: Engine) -> Iterator[Publishing]:
    """Images that are removed from the engine again."""
    it = Publishing(engine)
    try:
        yield it
    finally:
        _remove(it.made)


def _remove(images: list[str]) -> None:
    with DockerHost().get_client() as client:
        # Not images.list(), which also inspects those that somebody else removes meanwhile.
        there = set(client.api.images(quiet=True))
        for image in there.intersection(images):
            client.images.remove(image, force=True)
