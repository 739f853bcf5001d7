"""A connection to one Docker engine."""

from typing import Self

from prefect_docker.host import DockerHost

from blocks.engine.faults import engine_faults


class Connection:
    """An open connection; close it after use, it is a context manager."""

    def __init__(self, host: DockerHost) -> None:
        with engine_faults("connecting"):
            self._docker = host.get_client()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._docker.close()
