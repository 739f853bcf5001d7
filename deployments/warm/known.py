"""What a worker knows already, and each of its runs would else ask Prefect for.

That is the run itself, where results are kept, and the four things that Prefect's client reads for
the first event of a run: flow, deployment, queue and pool.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect import flow_engine, results
from prefect.client.schemas.objects import Flow, FlowRun, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.related import RESOURCE_CACHE
from prefect.types._datetime import now
from pydantic import BaseModel

from domain.routing import repository_of
from flows.ahead import get_ready

Known = dict[str, Any]
"""As it goes over the socket: `run`, `storage`, and `related`, by kind"""

_KINDS: dict[str, type[BaseModel]] = {
    "flow": Flow,
    "deployment": DeploymentResponse,
    "work-queue": WorkQueue,
    "work-pool": WorkPool,
}


def known(
    run: FlowRun,
    storage: UUID | None,
    related: Mapping[str, BaseModel],
    keys: Mapping[str, object],
) -> Known:
    """These to be handed on: a run, the block that Prefect's server names for results if any, and
    by kind what the run is of; `keys` are what a run names them by.
    """
    return {
        "run": run.model_dump(mode="json"),
        "storage": storage and str(storage),
        "related": {
            kind: {"key": str(keys[kind]), "object": found.model_dump(mode="json")}
            for kind, found in related.items()
        },
    }


def remember(given: Known) -> None:
    """In the process of a run: have Prefect's engine take these as read."""
    if not given:
        return
    run, storage = FlowRun.model_validate(given["run"]), given["storage"] and UUID(given["storage"])

    async def named() -> UUID | None:
        return storage

    # Prefect's engine asks once for the run, and reads it again once it is Running; for the
    # storage it asks three times.
    flow_engine.load_flow_run = lambda flow_run_id: run  # noqa: ARG005 - Prefect's name
    results._read_server_default_result_storage_block_id = lambda: storage  # noqa: SLF001
    results._aread_server_default_result_storage_block_id = named  # noqa: SLF001
    for kind, said in given["related"].items():
        entry: dict[str, Any] = {
            "kind": kind,
            "object": _KINDS[kind].model_validate(said["object"]),
        }
        RESOURCE_CACHE[f"{kind}.{said['key']}"] = (entry, now("UTC"))  # type: ignore[assignment]


def begin(given: Known) -> None:
    """In the process of a run: get ready what our flows need, while Prefect's engine begins it."""
    parameters = given["run"]["parameters"] if given else {}
    if repository := repository_of(parameters):
        stack = parameters.get("stack")
        named = stack if isinstance(stack, str) else None
        get_ready(repository, named, builds="commit" in parameters)
