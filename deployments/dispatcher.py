"""The dispatcher: from a delivery in the inbox to a flow run, one after the other.

SQLite-backed Prefect sheds load from about ten concurrent creations on, so there is one caller.
What the API does not take now stays in the inbox and is tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.events import emit_event
from pydantic import ValidationError

from blocks.prefect_api import create_pipeline_run, prefect_api, read_routes
from deployments.inbox import HAS_RUN, Delivery, Inbox
from domain.commit import Commit
from domain.errors import RunRefused, SamebitsError, explained
from domain.marks import made_by
from domain.routing import Route, route

_LONGEST_WAIT = 30.0
Api = Callable[[], AbstractAsyncContextManager[PrefectClient]]
log = logging.getLogger("samebits.dispatcher")


class Dispatcher:
    """Creates the run of each waiting delivery; `wake` it when there is a new one.

    It sets `look` where a commit has come that has its run already: the branch may have been pushed
    back to it, and only git knows. It sets `new_run` where others may have to give way to a run.
    """

    def __init__(
        self,
        inbox: Inbox,
        created: asyncio.Queue[UUID],
        api: Api = prefect_api,
        look: asyncio.Event | None = None,
        new_run: asyncio.Event | None = None,
    ) -> None:
        self._inbox, self._created, self._api = inbox, created, api
        self._look, self._new_run = look or asyncio.Event(), new_run or asyncio.Event()
        self._awake = asyncio.Event()

    def wake(self, delivery: Delivery) -> None:
        """There is a new delivery: look into the inbox."""
        if delivery.state == "waiting":
            self._awake.set()
        else:
            _emit(delivery)

    async def run(self) -> None:
        """Dispatch for ever."""
        wait = 0.5
        while True:
            self._awake.clear()
            try:
                await self.dispatch()
                wait = 0.5
                await self._sleep(_LONGEST_WAIT)
            except SamebitsError as error:
                log.warning("deliveries wait: %s", error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)

    async def dispatch(self) -> None:
        """Create the runs of all that waits. Raises ServerUnavailable; nothing is lost then."""
        while waiting := await asyncio.to_thread(self._inbox.waiting):
            async with self._api() as client:
                routes = await read_routes(client)
                for delivery in waiting:
                    await self._dispatch(client, routes, delivery)

    async def _dispatch(
        self, client: PrefectClient, routes: list[Route], delivery: Delivery
    ) -> None:
        found = route(routes, delivery.repository, delivery.branch)
        if found is None:
            return self._ignore(delivery, "prefect.yaml has no deployment for this branch")
        try:
            commit = _commit(delivery)
            run = await create_pipeline_run(client, commit, found, delivery.once)
        except ValidationError as error:
            return self._ignore(delivery, "; ".join(explained(error)))
        except RunRefused as error:
            return self._ignore(delivery, str(error))
        # A run that a crash kept from being written down is this delivery's own all the same.
        reason = "" if made_by(run.labels, delivery.once) else HAS_RUN
        self._settle(delivery, "dispatched", reason, str(run.id))
        log.info("%s: run %s %s", commit.title, run.id, reason)
        self._created.put_nowait(run.id)
        self._new_run.set()
        if reason:
            self._look.set()
        return None

    def _ignore(self, delivery: Delivery, reason: str) -> None:
        """One that can start nothing must not hold up the others; it can be redelivered."""
        log.warning("delivery %s starts nothing: %s", delivery.id, reason)
        self._settle(delivery, "ignored", reason)

    def _settle(self, delivery: Delivery, state: str, reason: str, run_id: str = "") -> None:
        self._inbox.settle(delivery.id, state, reason, run_id)
        _emit(replace(delivery, state=state, reason=reason, run_id=run_id))

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._awake.wait(), seconds)
        except TimeoutError:
            return


def _emit(delivery: Delivery) -> None:
    """Tell Prefect's events what became of a delivery, so that users can hang automations on it."""
    emit_event(
        event=f"github.{delivery.event}",
        resource={
            "prefect.resource.id": f"github.repository.{delivery.repository or 'unknown'}",
            "github.branch": delivery.branch,
            "github.sha": delivery.sha,
        },
        payload={
            "delivery": delivery.id,
            "state": delivery.state,
            "reason": delivery.reason,
            "run": delivery.run_id,
        },
    )


def _commit(delivery: Delivery) -> Commit:
    return Commit(
        repository=delivery.repository,
        branch=delivery.branch,
        sha=delivery.sha,
        subject=delivery.subject,
        author=delivery.author,
    )
