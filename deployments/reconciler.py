"""The reconciler: what git has, whatever was delivered.

Every few minutes git itself is asked for the heads of all branches, and whatever has no run gets a
delivery in the inbox, as if GitHub had sent one. So nothing is lost while the receiver is away, and
a repository needs no webhook at all.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager

from prefect.client.orchestration import PrefectClient

from blocks.prefect_api import prefect_api, read_routes
from blocks.repository import GitHubRepository
from deployments.inbox import Delivery, Inbox
from deployments.looking import Look, look_at
from deployments.pushed_back import PushedBack
from deployments.receiver import Repositories
from domain.errors import SamebitsError
from domain.names import one_line
from domain.routing import Route

_FIRST_RETRY_SECONDS = 5.0
_GATHER_SECONDS = 1.0
_PRUNE_SECONDS = 3600.0
_AGAIN_SECONDS = 10.0
_AT_ONCE = 8
_EVERYTHING = "every repository"
log = logging.getLogger("samebits.reconciler")


class Reconciler:
    """Looks at each repository, every few minutes and whenever `look` is set."""

    def __init__(
        self,
        inbox: Inbox,
        repositories: Callable[[], Awaitable[Repositories]],
        stored: Callable[[Delivery], None],
        look: asyncio.Event,
        *,
        seconds: float,
        keep_days: float,
        api: Callable[[], AbstractAsyncContextManager[PrefectClient]] = prefect_api,
    ) -> None:
        self._inbox, self._repositories, self._stored = inbox, repositories, stored
        self._look, self._seconds, self._keep_days, self._api = look, seconds, keep_days, api
        self._pushed_back = PushedBack()
        self._faults: dict[str, str] = {}
        self._moves: dict[str, set[str]] = {}
        """By repository, the moves that its last look has found"""
        self._again = False
        self._prune_at = 0.0
        # Threads of its own: git servers that hang must not take those of the other loops.
        self._threads = ThreadPoolExecutor(_AT_ONCE, "reconciler")

    async def run(self) -> None:
        """Reconcile for ever."""
        retry = _FIRST_RETRY_SECONDS
        while True:
            self._look.clear()
            self._again = False
            try:
                await self.reconcile()
                pause, retry = self._seconds, _FIRST_RETRY_SECONDS
                if self._again:
                    pause = min(pause, _AGAIN_SECONDS)
            except SamebitsError as error:
                self._tell(_EVERYTHING, str(error))
                pause, retry = min(retry, self._seconds), retry * 2
            await self._sleep(pause)

    async def reconcile(self) -> None:
        """Look at each repository once. Raises ServerUnavailable; what one repository's git does
        is only logged.
        """
        repositories = await self._repositories()
        async with self._api() as client:
            routes = await read_routes(client)
            self._tell(_EVERYTHING, "")
            named = {route.repository for route in routes}
            await asyncio.gather(
                *(
                    self._reconcile(client, name, source, routes)
                    for name, source in repositories.items()
                    if name in named
                )
            )
        await self._prune()

    async def _reconcile(
        self, client: PrefectClient, name: str, source: GitHubRepository, routes: list[Route]
    ) -> None:
        """One repository, which holds up no other, whatever happens in it."""
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(
                self._threads, look_at, self._inbox, name, source, routes
            )
            for delivery in found.stored:
                log.info("%s %s %s had no run", name, delivery.branch, delivery.sha[:8])
                self._stored(delivery)
            fault = await self._follow(client, name, found)
        except SamebitsError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this repository's
            fault = one_line(f"{type(error).__name__}: {error}", 300)
        self._tell(name, fault)

    async def _follow(self, client: PrefectClient, name: str, found: Look) -> str:
        """Follow the branches that were pushed back; returns what kept one of them from it."""
        fault = ""
        before, self._moves[name] = self._moves.get(name, set()), {m.key for m in found.moves}
        for move in found.moves:
            if move.key not in before:
                self._again = True  # an answer of git's may be old: it is to say so twice
                continue
            try:
                if await self._pushed_back.follow(client, move):
                    self._inbox.note_look(name, {move.commit.branch: move.known})
            except SamebitsError as error:
                fault = str(error)
        return fault

    async def _prune(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._prune_at:
            self._prune_at = loop.time() + _PRUNE_SECONDS
            removed = await asyncio.to_thread(self._inbox.prune, self._keep_days)
            if removed:
                log.info("%d old rows of the inbox are removed", removed)

    def _tell(self, what: str, fault: str) -> None:
        """Log what fails, and that it works again; once each, not in each round."""
        if fault == self._faults.get(what, ""):
            return
        self._faults[what] = fault
        if fault:
            log.warning("%s is not reconciled: %s", what, fault)
        else:
            log.info("%s is reconciled again", what)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._look.wait(), seconds)
        except TimeoutError:
            return
        # Several that come at once are one; and git's answer is that of after the push.
        await asyncio.sleep(_GATHER_SECONDS)
