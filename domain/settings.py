"""How a repository is built and tested; set in prefect.yaml, never by the repository itself."""

import hashlib
import json
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from domain.names import checked_context_path


class BuildSettings(BaseModel):
    """How the image is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dockerfile: Annotated[str, AfterValidator(checked_context_path)] = Field(
        default="Dockerfile", description="Path of the Dockerfile in the repository"
    )
    target: str | None = Field(default=None, description="Stage of the Dockerfile to build")
    args: dict[str, str] = Field(
        default_factory=dict, description="Build arguments; no secrets: they stay in the image"
    )
    timeout_seconds: int = Field(default=1800, gt=0, description="Longest time a build may take")

    def with_cache_of(self, repository: str, *, trusted: bool) -> "BuildSettings":
        """The same, with cache mounts (`RUN --mount=type=cache`) of its own for each repository.

        What a branch that does not deploy puts there never reaches one that does.
        Source: https://docs.docker.com/reference/dockerfile/#buildkit-built-in-build-args
        """
        space = f"{repository}-{'deploys' if trusted else 'others'}"
        return self.model_copy(update={"args": self.args | {"BUILDKIT_CACHE_MOUNT_NS": space}})

    def key(self, repository: str, tree: str, *, trusted: bool) -> str:
        """What makes two builds the same: 64 hexadecimal digits.

        `tree` is git's name of the content. A branch that does not deploy has keys of its own
        (`trusted` is false), so that what it built is never taken for a branch that does.
        """
        parts = [repository, tree, self.dockerfile, self.target, sorted(self.args.items()), trusted]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class TestSettings(BaseModel):
    """How the image is tested, and what the tests may use."""

    __test__ = False
    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[str, ...] = Field(
        default=("make", "test"), min_length=1, description="Command that runs in the image"
    )
    timeout_seconds: int = Field(default=1800, gt=0, description="Longest time the tests may take")
    memory_mib: int = Field(default=2048, ge=16, description="Memory in MiB; no swap beyond it")
    processes: int = Field(default=1024, ge=1, description="Most processes and threads at a time")
    junit: str = Field(
        default="junit.xml",
        description="JUnit file that the tests leave; absolute, or from the working directory",
    )


class Settings(BaseModel):
    """The settings of one repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    build: BuildSettings = Field(default_factory=BuildSettings)
    test: TestSettings = Field(default_factory=TestSettings)
    supersede: bool = Field(
        default=True,
        description="Whether a newer push cancels this branch's runs that have not begun to deploy",
    )
