"""Waiting for what one waits for, with a limit."""

import asyncio
import time
from collections.abc import Callable

PATIENCE = 4
"""So many times longer than on a machine that does nothing else: tests run beside each other."""


def wait_until(ready: Callable[[], bool], seconds: float, what: str = "") -> None:
    """Return as soon as it is so; fail after a while, the longer the busier a machine may be."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or ready}")
        time.sleep(0.05)


async def until(ready: Callable[[], bool], seconds: float = 10) -> None:
    """The same, where what is waited for needs the loop of this test; fails with TimeoutError."""
    async with asyncio.timeout(seconds * PATIENCE):
        while not ready():  # noqa: ASYNC110 - nobody sets an event for what is waited for
            await asyncio.sleep(0.005)
