"""The announcer: the channel is told how each run stands, by one message that is kept up to date.

It does not follow hooks, which a killed process never runs, but compares: the message that a run's
state calls for, and the one that the channel was last told. So each end is told, if late, whatever
died in between; and nothing here can change a run's result.
"""

import asyncio
import contextlib
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import Event

from blocks.channel import Channel
from blocks.prefect_api import PIPELINE, PRUNE, prefect_api, read_runs_by_id, read_steps_of
from blocks.run_search import read_failed_prunes, read_recent_runs, read_states
from deployments.inbox import Inbox, Told
from deployments.receiver import Repositories
from deployments.reports import report_of
from domain.errors import MessageRefused, SamebitsError
from domain.message import Ending, Message, RunReport, message_of

_LOOK_BACK = timedelta(days=2)
_COMPARE_SECONDS = 30.0
_RETRY_SECONDS = 5.0
_MOST_RETRY_SECONDS = 60.0
_GATHER_SECONDS = 1.0
_PAUSE_SECONDS = 2.0
"""At least so long after a look, how runs go on is not looked at again"""
_BLOCK = "prefect.block-document."
_ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_WRITTEN_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Prefect tells of a state just before it is written down: until it can be, it is read again"""
_REFUSED_SECONDS = 600.0
_SETTLED_AFTER = timedelta(minutes=1)
"""After its end, Prefect still writes down how the steps of a run ended."""
_EVER = datetime.min.replace(tzinfo=UTC)
_PRECISION = timedelta(milliseconds=1)
"""With which a database may keep a time"""
log = logging.getLogger("samebits.announcer")


class Announcer:
    """Keeps the channel's messages true."""

    def __init__(
        self,
        inbox: Inbox,
        created: "asyncio.Queue[UUID]",
        channel: Callable[[PrefectClient], Awaitable[Channel]],
        repositories: Callable[[], Awaitable[Repositories]],
        api: Callable[[], AbstractAsyncContextManager[PrefectClient]] = prefect_api,
        block_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._block_changed = block_changed
        self._inbox, self._created = inbox, created
        self._channel, self._repositories, self._api = channel, repositories, api
        self._ended = asyncio.Event()
        self._heard_ends: dict[UUID, datetime] = {}
        """When the runs ended of whose end was heard, and not yet told"""
        self._looked = self._told_end = -math.inf
        self._kinds: dict[UUID, str] = {}
        """The name of each flow"""
        self._settled: dict[UUID, UUID | None] = {}
        self._refused: dict[UUID, float] = {}
        self._pasts: dict[UUID, tuple[UUID | None, list[State[Any]]]] = {}
        """The states of runs that are not settled, and the last of them"""

    async def run(self) -> None:
        """Tell for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._tell_for_ever())

    async def _tell_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        due, pause = loop.time(), _RETRY_SECONDS
        while True:
            ids = await self._next_ids(max(due - loop.time(), 0))
            everything = loop.time() >= due
            try:
                await self.tell(ids, everything=everything)
            except SamebitsError as error:
                log.warning("the channel waits: %s", error)
                await asyncio.sleep(pause)
                due, pause = loop.time(), min(pause * 2, _MOST_RETRY_SECONDS)
            else:
                due, pause = loop.time() + _COMPARE_SECONDS if everything else due, _RETRY_SECONDS

    async def tell(self, ids: set[UUID], *, everything: bool) -> None:
        """Bring the messages of these runs up to date; with `everything`, those of all runs that
        are recent, or whose end was not told. Of `prune` only what failed is told.

        Raises ServerUnavailable, ChannelUnavailable or ChannelRefused; what was not told then is
        told by a later call.
        """
        async with self._api() as client:
            runs = await self._read(client, ids, everything=everything)
            channel, steps = await asyncio.gather(
                self._channel(client),
                read_steps_of(client, [run.id for run in runs if run.run_count]),
            )
            for run in runs:
                report = await self._report(client, run, steps.get(run.id, []))
                await self._tell_run(channel, run, report)

    async def _read(
        self, client: PrefectClient, ids: set[UUID], *, everything: bool
    ) -> list[FlowRun]:
        """The runs that may have news, in the order in which they were created.

        Each is written down before it is told, so that it is told however long the channel is away.
        """
        not_ended = {UUID(run_id) for run_id in self._inbox.not_ended()} if everything else set()
        found = await self._read_written(client, list(ids | not_ended))
        for deleted in not_ended - {run.id for run in found}:
            self._inbox.forget_told(str(deleted))
        if everything:
            since = datetime.now(UTC) - _LOOK_BACK
            found += await read_recent_runs(client, since)
            found += await read_failed_prunes(client, since)
        if any(run.flow_id not in self._kinds for run in found):
            self._kinds = {flow.id: flow.name for flow in await client.read_flows()}
        runs = {run.id: run for run in found if not self._is_settled(run) and self._counts(run)}
        for run_id in runs:
            if not self._inbox.told(str(run_id)):
                self._inbox.keep_told(Told(str(run_id)))
        return sorted(runs.values(), key=lambda run: str(run.created))

    async def _read_written(self, client: PrefectClient, ids: list[UUID]) -> list[FlowRun]:
        ends, self._heard_ends = self._heard_ends, {}
        found = await read_runs_by_id(client, ids)
        for pause in _WRITTEN_SECONDS:
            if not any(
                run.state and run.state.timestamp < ends.get(run.id, _EVER) for run in found
            ):
                break
            await asyncio.sleep(pause)
            found = await read_runs_by_id(client, ids)
        return found

    def _kind(self, run: FlowRun) -> str:
        return self._kinds.get(run.flow_id, PIPELINE)

    def _counts(self, run: FlowRun) -> bool:
        """Whether a run is told of; one of `prune` if it failed, now or in an earlier try."""
        if self._kind(run) != PRUNE:
            return True
        failed = run.state is not None and (run.state.is_failed() or run.state.is_crashed())
        return failed or self._inbox.told(str(run.id)) is not None

    def _is_settled(self, run: FlowRun) -> bool:
        if asyncio.get_running_loop().time() < self._refused.get(run.id, 0.0):
            return True
        return run.id in self._settled and self._settled[run.id] == run.state_id

    async def _report(self, client: PrefectClient, run: FlowRun, steps: list[TaskRun]) -> RunReport:
        states = await self._past(client, run)
        report = report_of(run, self._kind(run), steps, "", states)
        repository = (await self._repositories()).get(report.commit.repository)
        if not repository or not report.commit.sha:
            return report
        return report.model_copy(update={"commit_url": repository.commit_url(report.commit.sha)})

    async def _past(self, client: PrefectClient, run: FlowRun) -> list[State[Any]]:
        """The states of a run; while its first try goes on, no other one has ended."""
        first = run.run_count == 1 and run.state is not None and run.state.is_running()
        if not run.run_count or first:
            return []
        seen, states = self._pasts.get(run.id, (None, []))
        if seen != run.state_id:
            states = await read_states(client, run.id)
            self._pasts[run.id] = run.state_id, states
        return states

    async def _tell_run(self, channel: Channel, run: FlowRun, report: RunReport) -> None:
        message = message_of(report)
        fingerprint = hashlib.sha256(message.model_dump_json().encode()).hexdigest()
        told = self._inbox.told(str(run.id)) or Told(str(run.id))
        if told.fingerprint != fingerprint:
            now = replace(told, fingerprint=fingerprint, ended=report.status.ended)
            try:
                # In one thread, which cancelling does not stop: what was sent is written down.
                await asyncio.to_thread(self._send, channel, now, message, report.endings)
            except MessageRefused as error:
                log.warning("run %s (%s) cannot be told: %s", run.name, run.id, error)
                self._refused[run.id] = asyncio.get_running_loop().time() + _REFUSED_SECONDS
                return
        if run.end_time and run.end_time < datetime.now(UTC) - _SETTLED_AFTER:
            self._settled[run.id] = run.state_id
            self._pasts.pop(run.id, None)

    def _send(
        self, channel: Channel, told: Told, message: Message, endings: tuple[Ending, ...]
    ) -> None:
        if told.reference:
            reference = channel.update(told.reference, message)
        else:
            reference = channel.post(message)
        self._inbox.keep_told(replace(told, reference=reference), endings)

    async def _next_ids(self, seconds: float) -> set[UUID]:
        """The runs of which there is news; none after a while of silence."""
        ids: set[UUID] = set()
        try:
            ids.add(await asyncio.wait_for(self._created.get(), seconds))
        except TimeoutError:
            return ids
        clock = asyncio.get_running_loop().time
        # More comes with it, and is told together; but an end is told at once, if it is not one of
        # many. Each look costs Prefect's server as much as a step does.
        gather = max(_GATHER_SECONDS, self._looked + _PAUSE_SECONDS - clock())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), gather)
            await asyncio.sleep(self._told_end + _GATHER_SECONDS - clock())
            self._told_end = clock()
        self._looked = clock()
        self._ended.clear()
        while not self._created.empty():
            ids.add(self._created.get_nowait())
        return ids

    async def _listen(self) -> None:
        """Prefect's own events say which run has news. A lost one costs time, not a message."""
        wanted = EventFilter(
            event=EventNameFilter(prefix=["prefect.flow-run.", "prefect.task-run.", _BLOCK])
        )
        while True:
            try:
                async with get_events_subscriber(filter=wanted) as events:
                    self._block_changed()  # perhaps while nobody listened
                    async for event in events:
                        self._hear(event)
            except Exception as error:  # noqa: BLE001 - whatever its client raises, it is tried again
                log.info("Prefect's events are away: %s", type(error).__name__)
            await asyncio.sleep(2)

    def _hear(self, event: Event) -> None:
        if event.event.startswith(_BLOCK):
            self._block_changed()
            return
        of_run = event.event.startswith("prefect.flow-run.")
        ended = of_run and event.resource.get("prefect.state-type") in _ENDS
        for name in [event.resource.id, *(related.id for related in event.related)]:
            if name.startswith("prefect.flow-run."):
                with contextlib.suppress(ValueError):
                    run_id = UUID(name.rpartition(".")[2])
                    self._created.put_nowait(run_id)
                    if ended and name == event.resource.id:
                        self._heard_ends[run_id] = event.occurred - _PRECISION
        if ended:
            self._ended.set()
