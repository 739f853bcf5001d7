"""Stopping what has served: it may take its time, and nobody has to wait for it."""

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context

from blocks.engine import Container, DockerHost, Engine
from domain.errors import SamebitsError


def stop_meanwhile(
    host: DockerHost, versions: Sequence[Container], log: Callable[[str], None]
) -> None:
    """Begin to stop and remove these; the process does not end before they have.

    What another deploy stops or removes meanwhile is fine. What cannot be stopped is logged: the
    next deploy removes it.
    """
    if versions:
        stop = threading.Thread(
            target=copy_context().run, args=(_stop, host, versions, log), daemon=False
        )
        stop.start()


def _stop(host: DockerHost, versions: Sequence[Container], log: Callable[[str], None]) -> None:
    for version in versions:
        try:
            with Engine(host) as engine:
                engine.stop(version.id)
                engine.remove(version.id)
        except SamebitsError as error:
            log(f"{version.name} does not stop, and is removed by the next deploy: {error}")
