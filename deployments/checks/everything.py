"""All checks, in the order of what a run needs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from prefect.client.orchestration import PrefectClient
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from blocks.engine import DockerHost
from blocks.inventory import Inventory, take_inventory
from blocks.prefect_api import prefect_api, read_routes
from deployments.checks import arrivals, engine, host, mapping, rooms, runs, server, worker
from deployments.checks.checking import Scene, after, checked, of_error
from deployments.provisioning import PROJECT
from domain.errors import SamebitsError
from domain.health import Finding, ok
from flows.steps import ENGINE

if TYPE_CHECKING:
    from domain.routing import Route

BLOCKS = "blocks"
Asking = Callable[[PrefectClient], Awaitable[Sequence[Finding]]]


async def examine(scene: Scene) -> list[Finding]:
    """Everything that a run needs, as it stands now."""
    with temporary_settings(
        {
            PREFECT_API_URL: scene.api_url,
            PREFECT_API_AUTH_STRING: scene.password or None,
            # What a run would wait for is told at once.
            PREFECT_CLIENT_MAX_RETRIES: 0,
        }
    ):
        api = await checked(scene, server.API, lambda: server.check_api(scene))
        blocks, inventory = await _take_blocks(scene, api)
        at = inventory.engines.get(ENGINE, DockerHost()) if inventory else DockerHost()
        docker = await checked(scene, engine.ENGINE_CHECK, lambda: engine.check_engine(scene, at))
        disk, clock, prefect, named, pushes = await asyncio.gather(
            checked(scene, "disk", lambda: _check_disk(scene, at)),
            checked(scene, host.CLOCK, lambda: host.check_clock(scene, inventory)),
            _check_prefect(scene, api),
            _check_what_blocks_name(scene, inventory, docker, [*api, *blocks]),
            _check_pushes(scene, inventory, [*api, *blocks]),
        )
        return [*docker, *disk, *clock, *api, *prefect, *blocks, *named, *pushes]


async def _take_blocks(
    scene: Scene, api: Sequence[Finding]
) -> tuple[list[Finding], Inventory | None]:
    taken: list[Inventory] = []

    async def take() -> list[Finding]:
        async with prefect_api() as client:
            taken.append(await take_inventory(client))
        faults = [of_error(BLOCKS, fault) for fault in taken[0].faults]
        return faults or [ok(BLOCKS, f"{len(taken[0].loaded)}, and each loads")]

    found = await after(scene, api, BLOCKS, take)
    return found, taken[0] if taken else None


async def _check_disk(scene: Scene, at: DockerHost) -> list[Finding]:
    folder = None
    with suppress(SamebitsError):  # its own check says so
        folder = await engine.ask(at, lambda asked: asked.folder())
    return host.check_disk(scene, folder)


async def _check_prefect(scene: Scene, api: Sequence[Finding]) -> list[Finding]:
    file = PROJECT / "prefect.yaml"
    checks: dict[str, Asking] = {
        server.DATABASE: lambda client: server.check_database(scene, client),
        worker.WORKER: lambda client: worker.check_worker(scene, client),
        mapping.DEPLOYMENTS: lambda client: mapping.check_deployments(scene, client, file),
        runs.RUNS: runs.check_runs,
    }
    found = await asyncio.gather(
        *(after(scene, api, what, _with_client(ask)) for what, ask in checks.items())
    )
    return [finding for findings in found for finding in findings]


def _with_client(ask: Asking) -> Callable[[], Awaitable[Sequence[Finding]]]:
    async def check() -> Sequence[Finding]:
        async with prefect_api() as client:
            return await ask(client)

    return check


async def _check_what_blocks_name(
    scene: Scene,
    inventory: Inventory | None,
    docker: Sequence[Finding],
    before: Sequence[Finding],
) -> list[Finding]:
    if inventory is None:
        named = (mapping.BRANCHES, "registries", "repositories", "stacks", "channel")
        found = [await after(scene, before, what, _nothing) for what in named]
        return [finding for findings in found for finding in findings]
    routes: list[Route] = []

    async def check() -> list[Finding]:
        async with prefect_api() as client:
            routes.extend(await read_routes(client))
        return mapping.check_branches(inventory, routes)

    branches = await checked(scene, mapping.BRANCHES, check)
    return [*branches, *await rooms.check_rooms(scene, inventory, routes, docker)]


async def _check_pushes(
    scene: Scene, inventory: Inventory | None, before: Sequence[Finding]
) -> list[Finding]:
    receiver, inbox = await asyncio.gather(
        checked(scene, arrivals.RECEIVER, lambda: arrivals.check_receiver(scene)),
        checked(scene, arrivals.DELIVERIES, lambda: arrivals.check_inbox(scene)),
    )
    if inventory is None:
        pushes = await after(scene, before, arrivals.PUSHES, _nothing)
    else:
        names = sorted(inventory.repositories)
        pushes = await checked(scene, arrivals.PUSHES, lambda: arrivals.check_pushes(scene, names))
    return [*receiver, *inbox, *pushes]


async def _nothing() -> list[Finding]:
    return []
