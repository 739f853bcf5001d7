"""What a worker knows already, and each of its runs would else ask Prefect for.

Prefect's client reads four things for the first event of a run: flow, deployment, queue and pool.
"""

from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.objects import Flow, WorkPool, WorkQueue
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.related import RESOURCE_CACHE
from prefect.types._datetime import now
from pydantic import BaseModel

Known = dict[str, dict[str, Any]]
"""As it goes over the socket: kind to its key in Prefect's cache, and the object"""

_KINDS: dict[str, type[BaseModel]] = {
    "flow": Flow,
    "deployment": DeploymentResponse,
    "work-queue": WorkQueue,
    "work-pool": WorkPool,
}


def known(objects: Mapping[str, BaseModel], keys: Mapping[str, object]) -> Known:
    """These objects, by kind, to be handed on; `keys` are what a run names them by."""
    return {
        kind: {"key": str(keys[kind]), "object": found.model_dump(mode="json")}
        for kind, found in objects.items()
    }


def remember(given: Known) -> None:
    """In the process of a run: have Prefect's client take these as read."""
    for kind, said in given.items():
        entry: dict[str, Any] = {
            "kind": kind,
            "object": _KINDS[kind].model_validate(said["object"]),
        }
        RESOURCE_CACHE[f"{kind}.{said['key']}"] = (entry, now("UTC"))  # type: ignore[assignment]
