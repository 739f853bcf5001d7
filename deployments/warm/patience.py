"""Waiting for an API that is away, while the runs go on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

from domain.names import one_line

_AWAY_SECONDS = 2.0
log = logging.getLogger("samebits.worker")
Answer = TypeVar("Answer")


class Patience:
    """Prefect's worker alone gives up after about 20 s, and ends its runs with it."""

    def __init__(self) -> None:
        self._away = False

    async def __call__(self, call: Callable[[], Awaitable[Answer]], otherwise: Answer) -> Answer:
        """What the call answers, or `otherwise` where the API is away, after a while."""
        try:
            answer = await call()
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise
            self._say(away=True, why=one_line(f"{type(error).__name__}: {error}", 200))
            await asyncio.sleep(_AWAY_SECONDS)
            return otherwise
        self._say(away=False, why="")
        return answer

    def _say(self, *, away: bool, why: str) -> None:
        if away != self._away:
            self._away = away
            log.warning("Prefect's API is away: %s" if away else "Prefect's API is back%s", why)
