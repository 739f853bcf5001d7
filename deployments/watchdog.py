"""The watchdog: a run whose worker is silent ends, so that somebody is told of it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from blocks.prefect_api import POOL, prefect_api, read_unfinished_runs
from deployments.recovery import end_run, worker_of
from domain.errors import SamebitsError
from domain.health import SILENT_SECONDS

_LOOK_SECONDS = 10.0
_MOST_GAP_SECONDS = 30.0
_CANCELLING_SECONDS = 120.0
"""Prefect kills what it cancels after 30 s"""

log = logging.getLogger("samebits.watchdog")


class Watchdog:
    """Looks whether each unfinished run still has a worker that lives.

    It goes by its own clock and by what it has seen itself: how long a heartbeat has stood still
    while the API answered. So no server that was away and no other host's clock ends a run.
    """

    def __init__(
        self, api: Callable[[], AbstractAsyncContextManager[PrefectClient]] = prefect_api
    ) -> None:
        self._api = api
        self._seen: dict[object, tuple[object, float]] = {}
        """What each worker's heartbeat, and each run's state, was, and since when it is so"""
        self._looked = 0.0

    async def run(self) -> None:
        """Look for ever."""
        loop, away = asyncio.get_running_loop(), False
        while True:
            try:
                await self.look(loop.time())
                away = False
            except SamebitsError as error:
                if not away:
                    log.warning("no worker is watched: %s", error)
                away = True
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self, now: float) -> None:
        """End the runs that nobody has any more; `now` is seconds of any steady clock.

        Raises ServerUnavailable; after that each worker has its time anew.
        """
        known = self._seen if now - self._looked < _MOST_GAP_SECONDS else {}
        self._seen, self._looked = {}, now
        async with self._api() as client:
            runs = await read_unfinished_runs(client)
            workers = await client.read_workers_for_work_pool(POOL) if runs else []
            now_is: dict[object, object] = {w.name: w.last_heartbeat_time for w in workers}
            now_is |= {worker_of(run): None for run in runs if worker_of(run) not in now_is}
            now_is |= {run.id: run.state_id for run in runs}
            seen = {
                key: known[key] if key in known and known[key][0] == value else (value, now)
                for key, value in now_is.items()
            }
            for run in runs:
                if why := _why_to_end(run, {key: now - since for key, (_, since) in seen.items()}):
                    await end_run(client, run, why)
        self._seen = seen


def _why_to_end(run: FlowRun, still: dict[object, float]) -> str:
    """Why a run ends, empty if it does not; `still`: for how long nothing has changed, in s."""
    worker = worker_of(run)
    if worker and still[worker] >= SILENT_SECONDS:
        return (
            f"Its worker {worker} has been silent for {still[worker]:.0f} s: it or its host is "
            "dead, or cut off. Retry this run."
        )
    if not run.state or still[run.id] < SILENT_SECONDS:
        return ""
    if run.state.is_pending() and not worker:
        return "A worker has taken this run and died before it began. Retry it."
    if run.state.is_cancelling() and still[run.id] >= _CANCELLING_SECONDS:
        return "It had no process any more."
    return ""
