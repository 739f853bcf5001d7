"""The superseder against a run that goes on, in any order of their steps."""

import contextlib
import types
from collections.abc import Generator
from typing import Any, cast
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.client.schemas.objects import FlowRun, State, StateType

from deployments import superseding
from deployments.superseding import Superseder
from domain.marks import SUPERSEDED, begins_to_deploy, superseded_by
from tests.deployments.runs import FakePrefect

OLD, NEW = "1" * 40, "2" * 40


@types.coroutine
def pause() -> Generator[None]:
    """The others' turn."""
    yield


class SteppedPrefect(FakePrefect):
    """A server between whose calls anything may happen."""

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        await pause()
        return await super().read_flow_run(flow_run_id)

    async def read_flow_run_states(self, flow_run_id: UUID) -> list[State[Any]]:
        await pause()
        return await super().read_flow_run_states(flow_run_id)

    async def update_flow_run_labels(self, flow_run_id: UUID, labels: dict[str, Any]) -> None:
        await pause()
        await super().update_flow_run_labels(flow_run_id, labels)

    async def set_flow_run_state(
        self, flow_run_id: UUID, state: State[Any], *, force: bool = False
    ) -> None:
        await pause()
        await super().set_flow_run_state(flow_run_id, state, force=force)


class Worked:
    """A run from its beginning to its end, killed wherever it is cancelled."""

    def __init__(self, prefect: FakePrefect, run: UUID) -> None:
        self.prefect, self.run = prefect, run
        self.story: list[str] = []

    async def work(self) -> None:
        """As flows/steps.py and blocks/prefect_run.py do it."""
        for kind in (StateType.PENDING, StateType.RUNNING):
            if await self._is_cancelled("waits"):
                return
            self.prefect.change(self.run, infrastructure_pid="host:1")
            self.prefect.set(self.run, kind)
        for _ in ("build", "test", "publish"):
            if await self._is_cancelled("works"):
                return
        self.prefect.change(self.run, tags=begins_to_deploy([], 1))
        await pause()
        if superseded_by(self.prefect.runs[self.run].labels, 1):
            self.story.append("gave way")
            self.prefect.set(self.run, StateType.CANCELLED, name=SUPERSEDED)
            return
        for _ in range(4):
            if await self._is_cancelled("deploys"):
                return
        self.prefect.set(self.run, StateType.COMPLETED)

    async def _is_cancelled(self, doing: str) -> bool:
        await pause()
        self.story.append(doing)
        state = self.prefect.runs[self.run].state
        if not state or not (state.is_cancelling() or state.is_cancelled()):
            return False
        self.story.append("killed")
        if state.is_cancelling():
            self.prefect.set(self.run, StateType.CANCELLED)
        return True


@settings(max_examples=80, deadline=None, database=None)
@given(st.lists(st.booleans(), max_size=24))
def test_in_no_order_of_events_a_deploy_is_cut_and_no_run_is_left_between(
    order: list[bool],
) -> None:
    prefect = SteppedPrefect()
    key = f"hello-service/a-deployment/master/{OLD}"
    run = prefect.add("old", sha=OLD, key=key)
    worked, superseder = Worked(prefect, run), Superseder.__new__(Superseder)
    superseder._giving_way = {}
    old = superseding._going(prefect.runs[run])
    assert old
    both = [worked.work(), superseder._let_give_way(cast("Any", prefect), old, NEW)]
    for first in [*order, *[True, False] * 40]:
        with contextlib.suppress(StopIteration, RuntimeError):
            both[not first].send(None)
    state, story = prefect.runs[run].state, worked.story
    assert state
    assert state.is_final(), state
    assert story[-2:] != ["deploys", "killed"]
    assert ("deploys" in story) == state.is_completed(), story
