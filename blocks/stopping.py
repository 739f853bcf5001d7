"""Stopping what has served: it may take its time, and nobody has to wait for it."""

import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context

from blocks.engine import Container, DockerHost, Engine
from domain.errors import SamebitsError

_FIRST_SECONDS = 0.5
"""The end of the run comes first, and its message: an engine that stops something takes a core"""
_PAUSES = (1.0, 5.0, 15.0, 30.0, None)
"""Seconds between the tries, as an engine is away that restarts"""


def stop_meanwhile(
    host: DockerHost, versions: Sequence[Container], log: Callable[[str], None]
) -> None:
    """Begin to stop and remove these; the process does not end before they have.

    What another deploy stops or removes meanwhile is fine. An engine that is away is tried again.
    What cannot be stopped is logged: the next deploy removes it.
    """
    if versions:
        stop = threading.Thread(
            target=copy_context().run, args=(_stop, host, versions, log), daemon=False
        )
        stop.start()


def _stop(host: DockerHost, versions: Sequence[Container], log: Callable[[str], None]) -> None:
    time.sleep(_FIRST_SECONDS)
    for version in versions:
        try:
            _stop_one(host, version)
        except SamebitsError as error:
            log(f"{version.name} does not stop, and is removed by the next deploy: {error}")


def _stop_one(host: DockerHost, version: Container) -> None:
    for pause in _PAUSES:
        try:
            with Engine(host) as engine:
                engine.stop(version.id)
                engine.remove(version.id)
        except SamebitsError as error:
            if not error.retryable or pause is None:
                raise
            time.sleep(pause)
        else:
            return
