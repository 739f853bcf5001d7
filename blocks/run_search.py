"""Runs of Prefect as the loops of the service look for them."""

from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
    Operator,
)
from prefect.client.schemas.objects import FlowRun, State, StateType

from blocks.prefect_api import PRUNE, find_runs

_TO_END = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
_GOING = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


async def read_runs_to_end(client: PrefectClient) -> list[FlowRun]:
    """The runs that wait or go on, and that nobody has cancelled."""
    return await find_runs(client, FlowRunFilter(state=_of_types(_TO_END)))


async def read_runs_by_key(client: PrefectClient, keys: list[str]) -> dict[str, FlowRun]:
    """The runs with these idempotency keys, by key."""
    if not keys:
        return {}
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
    return {str(run.idempotency_key): run for run in await find_runs(client, wanted)}


async def read_recent_runs(client: PrefectClient, since: datetime) -> list[FlowRun]:
    """The runs that were to start, or have ended, after a time, and those that go on."""
    recent = FlowRunFilter(  # type: ignore[call-arg] # the operator comes from a mixin
        operator=Operator.or_,
        expected_start_time=FlowRunFilterExpectedStartTime(after_=since),
        end_time=FlowRunFilterEndTime(after_=since),
        state=_of_types(_GOING),
    )
    return await find_runs(client, recent)


async def read_failed_prunes(client: PrefectClient, since: datetime) -> list[FlowRun]:
    """The runs of `prune` that did not pass and have ended after a time."""
    failed = FlowRunFilter(
        end_time=FlowRunFilterEndTime(after_=since),
        state=_of_types([StateType.FAILED, StateType.CRASHED]),
    )
    return await find_runs(client, failed, (PRUNE,))


async def read_cancelled_runs(client: PrefectClient, since: datetime) -> list[FlowRun]:
    """The runs that were to start after a time, and are or were cancelled."""
    return await find_runs(
        client,
        FlowRunFilter(
            expected_start_time=FlowRunFilterExpectedStartTime(after_=since),
            state=_of_types([StateType.CANCELLING, StateType.CANCELLED]),
        ),
    )


async def read_states(client: PrefectClient, run_id: UUID) -> list[State]:
    """All states that a run was in, oldest first."""
    return await client.read_flow_run_states(run_id)


def _of_types(types: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=types))
