"""Prefect's means to watch over running processes, one set of them for all runs of a worker.

Prefect's own process worker makes one for each run: a client, a listener and a websocket.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from prefect.runner._flow_run_executor import FlowRunExecutorContext


class _Held:
    """A context that is open, until it is told to close and no run needs it."""

    def __init__(self) -> None:
        self.context = FlowRunExecutorContext()
        self.runs = 0
        self.leaves = False
        self._over = asyncio.Event()

    async def hold(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Open it here, and close it in the same task, as anyio wants it."""
        async with self.context:
            task_status.started()
            await self._over.wait()

    @property
    def hears(self) -> bool:
        """Whether it still hears at once of a run that is cancelled."""
        listening = self.context._observer._consumer_task  # noqa: SLF001
        return listening is not None and not listening.done()

    def close_if_idle(self) -> None:
        """Close it where nobody needs it any more."""
        if self.leaves and not self.runs:
            self._over.set()


class Watch:
    """Opens a context with the first run, and another one where that has lost its connection."""

    def __init__(self) -> None:
        self._held: _Held | None = None
        self._one = asyncio.Lock()

    def leave(self) -> None:
        """Close what is open after the last run."""
        if self._held:
            self._held.leaves = True
            self._held.close_if_idle()

    @asynccontextmanager
    async def over_runs(self, group: anyio.abc.TaskGroup) -> AsyncIterator[FlowRunExecutorContext]:
        """The context for a run; one that is opened lives in this group."""
        held = await self._open(group)
        held.runs += 1
        try:
            yield held.context
        finally:
            held.runs -= 1
            held.close_if_idle()

    async def _open(self, group: anyio.abc.TaskGroup) -> _Held:
        async with self._one:
            if self._held is None or not self._held.hears:
                self.leave()
                held = _Held()
                await group.start(held.hold)
                self._held = held
            return self._held
