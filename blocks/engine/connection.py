"""A connection to one Docker engine."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from prefect_docker.host import DockerHost

from blocks.engine.faults import engine_faults
from blocks.process import in_run

_BUILDKIT_SINCE = (1, 39)
_SOCKET = "http+docker://"
"""How the SDK calls an engine on a socket of this host"""


@dataclass(frozen=True)
class About:
    """What an engine says of itself."""

    version: str
    storage_driver: str
    buildkit: bool
    """Whether its API builds with BuildKit"""


class Connection:
    """An open connection; close it after use, it is a context manager.

    The process of a run has one to each engine, which stays open from step to step.
    """

    _of_run: ClassVar[dict[str, Any]] = {}

    def __init__(self, host: DockerHost) -> None:
        # Not by which block it comes from, as in its JSON: a stack has its own, often of this host.
        key = repr([getattr(host, field) for field in DockerHost.model_fields])
        if key in self._of_run:
            self._docker = self._of_run[key]
            return
        with engine_faults("connecting"):
            self._docker = host.get_client()
        if self._docker.api.base_url.startswith(_SOCKET):
            # Else the environment is searched for proxies at each request, a tenth of a run's work.
            self._docker.api.trust_env = False
        if in_run():
            self._of_run[key] = self._docker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not in_run():
            self._docker.close()

    def about(self) -> About:
        """What the engine is."""
        with engine_faults("asking the engine about itself"):
            info = self._docker.info()
            version = tuple(
                int(part) for part in str(self._docker.version()["ApiVersion"]).split(".")
            )
        return About(
            version=str(info["ServerVersion"]),
            storage_driver=str(info["Driver"]),
            buildkit=version >= _BUILDKIT_SINCE and info.get("OSType") == "linux",
        )
