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

    Those who ask at the same time get one answer, and each a copy: what one run's start writes into
    it must not reach the next one. An error is not kept.
    """
    kept: dict[Key, tuple[float, asyncio.Task[Answer]]] = {}

    async def read_kept(key: Key) -> Answer:
        loop = asyncio.get_running_loop()
        for old in [one for one, (until, _) in kept.items() if until <= loop.time()]:
            del kept[old]
        if key not in kept:
            kept[key] = loop.time() + seconds, loop.create_task(read(key))
        _, asked = kept[key]
        try:
            # Whoever gives up waiting does not take the answer from the others.
            answer = await asyncio.shield(asked)
        except Exception:
            if kept.get(key, (0, None))[1] is asked:
                del kept[key]
            raise
        return answer.model_copy(deep=True)

    return read_kept
