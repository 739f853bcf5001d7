"""Waiting for what one waits for, with a limit."""

import time
from collections.abc import Callable


def wait_until(ready: Callable[[], bool], seconds: float, what: str = "") -> None:
    """Return as soon as it is so; fail after a while."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or ready}")
        time.sleep(0.05)
