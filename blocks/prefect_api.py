"""The room of Prefect's API: runs, deployments, artifacts and limits."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow, get_client, get_run_logger
from prefect.artifacts import MarkdownArtifact, TableArtifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_UI_URL
from prefect.states import Scheduled

from blocks.prefect_tls import shared_tls
from domain.commit import Commit
from domain.errors import BadInput, RunRefused, ServerUnavailable
from domain.image import PublishedImage
from domain.marks import delivered_by
from domain.names import one_line
from domain.routing import Route, idempotency_key, run_tags, tags_of, title_of

POOL = "samebits"
"""The work pool of all our runs"""

PIPELINE = "pipeline"
REDEPLOY = "redeploy"
PRUNE = "prune"
_PAGE = 200


# -- inside a run -----------------------------------------------------------------------------


def run_log() -> Callable[[str], None]:
    """The log of this run, as a function of a line."""
    logger = get_run_logger()
    # The line is an argument, not the format: it comes from outside and may hold a %.
    return lambda line: logger.info("%s", line)


def show_markdown(key: str, text: str, description: str) -> None:
    """Show a text on this run's page in the UI."""
    MarkdownArtifact(key=key, markdown=text, description=description).create(_sync=True)  # type: ignore[call-arg]


def ensure_limit(name: str) -> str:
    """A global concurrency limit of one; returns its name."""
    # Prefect looks first and makes it then: somebody else, or a try of its own whose answer was
    # lost, may have been quicker.
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(name, 1)
    return name


def free_limit(name: str) -> None:
    """Take a limit's slots back from whoever has them."""
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))


def record_image(image: PublishedImage) -> None:
    """Bind a commit's green tests to the digest: what `redeploy` accepts later."""
    TableArtifact(
        key=_record_key(image.digest),
        table=[
            {
                "commit": image.commit.sha,
                "subject": image.commit.subject,
                "digest": image.digest,
                "image": image.model_dump_json(),
            }
        ],
        description=f"Commit {image.commit.sha} passed its tests as this image.",
    ).create(_sync=True)  # type: ignore[call-arg]


def recorded_image(digest: str, sha: str = "") -> PublishedImage | None:
    """What `record_image` bound to a digest: for the commit `sha`, or for the latest."""
    return next((i for i in recorded_images(digest) if sha in ("", i.commit.sha)), None)


def recorded_images(digest: str) -> list[PublishedImage]:
    """All that `record_image` bound to a digest, the latest first."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[_record_key(digest)])),
            sort=ArtifactSort.CREATED_DESC,
        )
    images = [image for artifact in found if (image := _image(artifact.data))]
    return [image for image in images if image.digest == digest]


def _record_key(digest: str) -> str:
    # The UI shows the key as a title: half a digest fits, and the record holds the whole one.
    return "image-" + digest.removeprefix("sha256:")[:16]


def _image(data: Any) -> PublishedImage | None:
    try:
        rows = json.loads(data) if isinstance(data, str) else data
        return PublishedImage.model_validate_json(rows[0]["image"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


# -- from outside a run -----------------------------------------------------------------------


@asynccontextmanager
async def prefect_api() -> AsyncIterator[PrefectClient]:
    """A client of the API; what goes wrong while it is open is ServerUnavailable."""
    try:
        async with get_client(httpx_settings=shared_tls()) as client:
            yield client
    except (httpx.TransportError, PrefectHTTPStatusError, RuntimeError, OSError) as error:
        raise ServerUnavailable(
            "Prefect's API does not answer, or not well.",
            why=one_line(f"{type(error).__name__}: {error}", 300),
            hint="Check that the server runs and that its database answers (/api/ready).",
        ) from error


async def read_routes(client: PrefectClient) -> list[Route]:
    """Where each branch leads: the deployments of `pipeline`."""
    flow = FlowFilter(name=FlowFilterName(any_=[PIPELINE]))
    routes: list[Route] = []
    while True:
        page = await client.read_deployments(flow_filter=flow, limit=_PAGE, offset=len(routes))
        for deployment in page:
            commit = deployment.parameters.get("commit") or {}
            routes.append(
                Route(
                    deployment_id=deployment.id,
                    repository=commit.get("repository", ""),
                    branch=commit.get("branch", ""),
                    stack=deployment.parameters.get("stack"),
                )
            )
        if len(page) < _PAGE:
            return routes


async def delete_deployments_but(client: PrefectClient, names: set[str]) -> None:
    """Delete each deployment of our flows that has another name than these."""
    flows = FlowFilter(name=FlowFilterName(any_=[PIPELINE, REDEPLOY, PRUNE]))
    found = await client.read_deployments(flow_filter=flows, limit=_PAGE)
    for deployment in found:
        if deployment.name not in names:
            await client.delete_deployment(deployment.id)


async def stacks_of(repository: str) -> set[str]:
    """The stacks that prefect.yaml names for a repository."""
    async with prefect_api() as client:
        routes = await read_routes(client)
    return {r.stack for r in routes if r.repository == repository and r.stack}


async def create_pipeline_run(
    client: PrefectClient, commit: Commit, to: Route, delivery: str
) -> FlowRun:
    """Start a pipeline for a commit; the same commit on the same branch is one run, ever.

    The run carries the delivery that made it. Raises RunRefused where trying again cannot help.
    """
    try:
        return await _create_run(client, commit, to, delivery)
    except ObjectNotFound as error:
        raise RunRefused(
            "The deployment is gone.", hint="Run make apply, then redeliver this."
        ) from error
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403, 408, 429) or status >= 500:
            raise
        raise RunRefused(
            f"Prefect answered {status}: {one_line(error.response.text, 300)}",
            hint="Mend the deployment in prefect.yaml, run make apply, then redeliver this.",
        ) from error


async def _create_run(client: PrefectClient, commit: Commit, to: Route, delivery: str) -> FlowRun:
    return await client.create_flow_run_from_deployment(
        to.deployment_id,
        parameters={"commit": commit.model_dump()},
        name=commit.title,
        tags=run_tags(commit, to.stack),
        labels={**delivered_by(delivery)},
        idempotency_key=idempotency_key(commit, to),
        state=Scheduled(),
    )


async def create_redeploy_run(
    client: PrefectClient,
    repository: str,
    stack: str,
    image: str,
    reason: str,
    branch: str = "",
    key: str | None = None,
) -> FlowRun:
    """Start a redeploy of a repository's image. Raises BadInput where it has no such deployment.

    With a branch it obeys the order of that branch, as no person's does. One key makes one run.
    """
    flow = FlowFilter(name=FlowFilterName(any_=[REDEPLOY]))
    for deployment in await client.read_deployments(flow_filter=flow, limit=_PAGE):
        if deployment.parameters.get("repository") == repository:
            given = {"stack": stack, "image": image, "reason": reason}
            given |= {"branch": branch} if branch else {}
            whole = deployment.parameters | given
            return await client.create_flow_run_from_deployment(
                deployment.id,
                parameters=given,
                name=title_of(whole),
                tags=tags_of(whole),
                idempotency_key=key,
            )
    raise BadInput(
        f"prefect.yaml has no deployment of redeploy for {repository}.",
        hint="Add one there, and run make apply.",
    )


async def name_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """A hook: a run that a person starts is called and tagged as those of the dispatcher are."""
    name = title_of(flow_run.parameters)
    missing = [tag for tag in tags_of(flow_run.parameters) if tag not in flow_run.tags]
    if missing or name != flow_run.name:
        async with prefect_api() as client:
            await client.update_flow_run(flow_run.id, name=name, tags=[*flow_run.tags, *missing])


async def retry_run(
    client: PrefectClient, run_id: UUID, message: str = "Retry from the UI"
) -> None:
    """Retry a run just as the Retry button of the Prefect UI does."""
    state: State[Any] = Scheduled(name="AwaitingRetry", message=message)
    await client.set_flow_run_state(run_id, state, force=True)


async def read_runs(client: PrefectClient, since: datetime) -> list[FlowRun]:
    """The runs of `pipeline` and `redeploy` that were to start after a time, newest first."""
    return await find_runs(
        client,
        FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime(after_=since)),
    )


async def read_unfinished_runs(client: PrefectClient) -> list[FlowRun]:
    """The runs, of all flows, that a process has, or had."""
    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=types))
    return await find_runs(client, FlowRunFilter(state=state), (PIPELINE, REDEPLOY, PRUNE))


async def read_runs_by_id(client: PrefectClient, ids: list[UUID]) -> list[FlowRun]:
    """The runs with these IDs that still exist."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids))
    return await find_runs(client, wanted, (PIPELINE, REDEPLOY, PRUNE)) if ids else []


async def find_runs(
    client: PrefectClient, wanted: FlowRunFilter, flows: Sequence[str] = (PIPELINE, REDEPLOY)
) -> list[FlowRun]:
    """The runs of these flows that a filter lets through, newest first."""
    runs: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
            flow_run_filter=wanted,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
            offset=len(runs),
        )
        runs += page
        if len(page) < _PAGE:
            return runs


async def read_steps(client: PrefectClient, run_id: UUID) -> list[TaskRun]:
    """The task runs of a run, in the order in which they were made."""
    return (await read_steps_of(client, [run_id]))[run_id]


async def read_steps_of(client: PrefectClient, run_ids: list[UUID]) -> dict[UUID, list[TaskRun]]:
    """The task runs of each of these runs, in the order in which they were made."""
    steps: dict[UUID, list[TaskRun]] = {run_id: [] for run_id in run_ids}
    read, wanted = 0, FlowRunFilter(id=FlowRunFilterId(any_=run_ids))
    while run_ids:
        page = await client.read_task_runs(flow_run_filter=wanted, limit=_PAGE, offset=read)
        read += len(page)
        for step in page:
            if step.flow_run_id in steps:
                steps[step.flow_run_id].append(step)
        if len(page) < _PAGE:
            break
    for mine in steps.values():
        mine.sort(key=lambda step: str(step.expected_start_time or step.created))
    return steps


def step_name(task_run: TaskRun) -> str:
    """The step that a task run is of; Prefect adds a suffix to each name."""
    return task_run.name.rpartition("-")[0] or task_run.name


def run_url(run_id: UUID) -> str:
    """The page of a run in the Prefect UI."""
    return f"{PREFECT_UI_URL.value()}/runs/flow-run/{run_id}"
