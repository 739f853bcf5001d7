"""Prefect's side of pruning: which runs may still need something, and the runs of `prune`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
)
from prefect.client.schemas.objects import FlowRun

from blocks.prefect_api import PRUNE, find_runs
from domain.errors import BadInput
from domain.names import is_sha
from domain.pruning import Needed

ARTIFACT = "pruned"


async def needed_by_runs(client: PrefectClient, since: datetime) -> Needed:
    """What the runs need that go on, or that have ended after a time and may be retried."""
    going = FlowRunFilter(end_time=FlowRunFilterEndTime(is_null_=True))
    recent = FlowRunFilter(end_time=FlowRunFilterEndTime(after_=since))
    runs = [*await find_runs(client, going), *await find_runs(client, recent)]
    named = {name for run in runs for name in _images_of(run.parameters)}
    shas = frozenset(name for name in named if is_sha(name))
    return Needed(shas=shas, digests=named - shas)


def _images_of(parameters: dict[str, Any]) -> set[str]:
    """What a run's parameters call its image by: a commit's SHA, or a digest."""
    commit = parameters.get("commit")
    given = [commit.get("sha")] if isinstance(commit, dict) else []
    return {str(name or "").strip().lower() for name in [*given, parameters.get("image")]} - {""}


async def create_prune_run(client: PrefectClient) -> FlowRun:
    """Start a run of `prune` now. Raises BadInput where prefect.yaml has no deployment of it."""
    flow = FlowFilter(name=FlowFilterName(any_=[PRUNE]))
    for deployment in await client.read_deployments(flow_filter=flow, limit=1):
        return await client.create_flow_run_from_deployment(deployment.id)
    raise BadInput(
        "prefect.yaml has no deployment of prune.", hint="Add one there, and run make apply."
    )


async def what_was_pruned(client: PrefectClient, run_id: UUID) -> str:
    """What a run of `prune` shows on its page, as Markdown; empty where it did not get so far."""
    found = await client.read_artifacts(
        artifact_filter=ArtifactFilter(
            key=ArtifactFilterKey(any_=[ARTIFACT]),
            flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]),
        )
    )
    return str(found[0].data) if found else ""
