"""What a worker knows already, and each of its runs would else ask Prefect for.

That is the run itself, where results are kept, and the four things that Prefect's client reads for
the first event of a run: flow, deployment, queue and pool. In turn the run says what its worker
would else write down: by whom it was taken, and its process, with what it writes in any case.
"""

import os
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect import __version__, flow_engine, results
from prefect._internal.version_checking import _api_version_check_key, _cache_api_version_check
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import Flow, FlowRun, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.related import RESOURCE_CACHE
from prefect.settings import PREFECT_API_URL
from prefect.types._datetime import now
from pydantic import BaseModel

from domain.routing import branch_to_build, repository_of
from flows.ahead import get_ready

Known = dict[str, Any]
"""As it goes over the socket: `taken_by`, and where more is known `run`, `storage`, and `related`,
by kind
"""

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
    if "taken_by" in given:  # a worker that was there before this code writes it down itself
        for client in (PrefectClient, SyncPrefectClient):
            _say_with_each_update(client, f"{given['taken_by']}:{os.getpid()}")
    # The worker has asked the same server, which is of the version that it was installed with.
    _cache_api_version_check(_api_version_check_key(str(PREFECT_API_URL.value()), __version__))
    if "run" not in given:
        return
    run, storage = FlowRun.model_validate(given["run"]), given["storage"] and UUID(given["storage"])

    async def named() -> UUID | None:
        return storage

    # Prefect's engine asks once for the run, and reads it again once it is Running; for the
    # storage it asks three times.
    flow_engine.load_flow_run = lambda flow_run_id: run  # noqa: ARG005 - Prefect's name
    if not run.run_count:
        _take_as_begun(run)
    results._read_server_default_result_storage_block_id = lambda: storage  # noqa: SLF001
    results._aread_server_default_result_storage_block_id = named  # noqa: SLF001
    for kind, said in given["related"].items():
        entry: dict[str, Any] = {
            "kind": kind,
            "object": _KINDS[kind].model_validate(said["object"]),
        }
        RESOURCE_CACHE[f"{kind}.{said['key']}"] = (entry, now("UTC"))  # type: ignore[assignment]


def _say_with_each_update(client: Any, process: str) -> None:
    """What is written on this run says by which process it is at work."""
    update, own = client.update_flow_run, os.environ.get("PREFECT__FLOW_RUN_ID")

    def update_flow_run(self: Any, flow_run_id: UUID, *words: Any, **what: Any) -> Any:
        said = {"infrastructure_pid": process} if str(flow_run_id) == own else {}
        return update(self, flow_run_id, *words, **said | what)

    client.update_flow_run = update_flow_run


def _take_as_begun(run: FlowRun) -> None:
    """A run that is Running for the first time is read without asking: its first try has begun."""
    read = PrefectClient.read_flow_run

    async def read_once(self: PrefectClient, flow_run_id: UUID) -> FlowRun:
        PrefectClient.read_flow_run = read  # type: ignore[method-assign]
        if flow_run_id != run.id or not run.state or not run.state.is_running():
            return await read(self, flow_run_id)
        return run.model_copy(update={"run_count": 1, "start_time": run.state.timestamp})

    PrefectClient.read_flow_run = read_once  # type: ignore[method-assign, assignment]


def begin(given: Known) -> None:
    """In the process of a run: get ready what our flows need, while Prefect's engine begins it."""
    parameters = given["run"]["parameters"] if "run" in given else {}
    if repository := repository_of(parameters):
        stack = parameters.get("stack")
        named = stack if isinstance(stack, str) else None
        get_ready(repository, branch_to_build(parameters), named)
