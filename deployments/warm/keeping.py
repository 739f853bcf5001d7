"""Prefect's worker reads the same things again and again while it starts a run."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel

Key = TypeVar("Key")
Answer = TypeVar("Answer", bound=BaseModel)


def kept_for(
    seconds: float, read: Callable[[Key], Coroutine[Any, Any, Answer]]
) -> Callable[[Key], Coroutine[Any, Any, Answer]]:
    """The same function, which asks again for the same thing after some seconds only.

    Each answer is a copy: what one run's start writes into it must not reach the next one.
    """
    kept: dict[Key, tuple[float, Answer]] = {}

    async def read_kept(key: Key) -> Answer:
        now = asyncio.get_running_loop().time()
        for old in [one for one, (until, _) in kept.items() if until <= now]:
            del kept[old]
        if key not in kept:
            kept[key] = now + seconds, await read(key)
        return kept[key][1].model_copy(deep=True)

    return read_kept
