"""What a run that deploys writes on itself in Prefect, and reads of others."""

from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run

from domain.errors import RunEnded, Superseded
from domain.marks import begins_to_deploy, has_begun_to_deploy, superseded_by, way_given


def run_id() -> str:
    """The ID of this run."""
    return str(flow_run.get_id() or "")


def is_api_away(error: object) -> bool:
    """Whether a step failed since Prefect's API does not answer, or with a fault of its own.

    Prefect's client waits for about a minute, but a new one only where it has connected before.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def begin_to_deploy() -> None:
    """Write on this run that it deploys from now on.

    Raises Superseded if it is to give way, and RunEnded if it was cancelled, or ended, by others.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(run_id()))
        attempt = attempt_of(run)
        # An earlier try of this step may have written it, and may have changed the stack.
        if not has_begun_to_deploy(run.tags, attempt):
            client.update_flow_run(run.id, tags=begins_to_deploy(run.tags, attempt))
            run = client.read_flow_run(run.id)
            if by := superseded_by(run.labels, attempt):
                raise Superseded(way_given(by), by=by)
    if not run.state or not run.state.is_running():
        raise RunEnded(
            f"The run is {run.state_name} meanwhile: nothing is deployed.",
            why="It was cancelled, or its state was changed, and its process was not told.",
            hint="Retry the run if it is wanted after all.",
        )


def deploys_to(stack: str) -> str:
    """The name of the run that deploys to a stack now; empty for none."""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    tagged = FlowRunFilterTags(all_=[f"stack:{stack}"])
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running, tags=tagged))
    mine = run_id()
    names = [
        run.name
        for run in runs
        if str(run.id) != mine and has_begun_to_deploy(run.tags, attempt_of(run))
    ]
    return next(iter(names), "")


def attempt_of(run: FlowRun) -> int:
    """The number of a run's try, from 1."""
    return max(run.run_count, 1)
