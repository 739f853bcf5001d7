"""An image on its way: built, then tested, then published. Each type is made by one step only,
so that a type checker refuses to publish what was not tested.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from domain.commit import Commit
from domain.errors import ImageChanged
from domain.names import checked_digest

SOURCE_LABEL = "org.opencontainers.image.source"
REVISION_LABEL = "org.opencontainers.image.revision"
KEY_LABEL = "samebits.build"
"""The label with what an image was built from, see `BuildSettings.key`."""

Digest = Annotated[str, AfterValidator(checked_digest)]


class BuiltImage(BaseModel):
    """What `build` makes: an image on the engine, by its image ID."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: Commit
    image_id: Digest


class TestedImage(BaseModel):
    """What `run_tests` makes: the same image ID, with green tests."""

    __test__ = False
    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: Commit
    image_id: Digest


class PublishedImage(BaseModel):
    """What `publish` makes: the tested image in the registry, by the digest of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: Commit
    image_id: Digest
    repository: str
    """Registry and repository, e.g. 127.0.0.1:4250/hello-service"""
    digest: Digest

    @property
    def reference(self) -> str:
        """What a stack runs: `repository@sha256:…`, never a tag."""
        return f"{self.repository}@{self.digest}"


class Serving(BaseModel):
    """What a stack runs now: the digest, and the commit where the stack knows it (else empty)."""

    model_config = ConfigDict(frozen=True)

    digest: str
    sha: str = ""


class Manifest(BaseModel):
    """A manifest in a registry: its own digest, and that of the config it names."""

    model_config = ConfigDict(frozen=True)

    digest: Digest
    config_digest: Digest | None

    def holds(self, image_id: str) -> bool:
        """Whether this is the manifest of that image.

        Docker's graph-driver store calls an image by its config digest, the containerd store by its
        manifest digest; nothing else counts.
        """
        return image_id in (self.digest, self.config_digest)


def same_bits(tested: TestedImage, manifest: Manifest, repository: str) -> PublishedImage:
    """The published image, if the registry's manifest is that of the tested one."""
    if not manifest.holds(tested.image_id):
        raise ImageChanged(
            f"The image changed between test and publish: {tested.image_id} was tested, "
            f"but {repository} now holds {manifest.digest} for commit {tested.commit.sha}.",
            why="Somebody tagged or pushed another image in between.",
            hint="Nothing was deployed. Find out who pushes to this repository, then run again.",
        )
    return PublishedImage(
        commit=tested.commit,
        image_id=tested.image_id,
        repository=repository,
        digest=manifest.digest,
    )
