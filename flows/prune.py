"""Keep the disk from filling: remove what no stack and no recent run needs, and say what went."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.disk import free_bytes, remove_mirrors_but, remove_old_locks
from blocks.engine import DockerHost, Engine
from blocks.home import keep_days, one_at_a_time, system_name
from blocks.loading import block_names, load, load_all
from blocks.named import stack_called
from blocks.prefect_api import (
    prefect_api,
    read_routes,
    read_runs_by_id,
    run_log,
    show_markdown,
)
from blocks.prune_runs import ARTIFACT, needed_by_runs
from blocks.repository import GitHubRepository
from domain.errors import SamebitsError
from domain.image import KEY_LABEL
from domain.pruning import Needed, Pruned, StoredImage, superfluous
from flows.steps import ENGINE


@flow(name="prune", flow_run_name="prune")
async def prune(cache_mib: int = 10_240) -> State[Any]:
    """Remove from this host what no stack and no recent run needs.

    Args:
        cache_mib: Size in MiB that the engine's build cache may keep

    """
    days, log = keep_days(), run_log()
    async with prefect_api() as client:
        with Engine(load(DockerHost, ENGINE)) as engine:
            containers = await _remove_ended_tests(client, engine)
            mirrors = remove_mirrors_but(await block_names(client, GitHubRepository))
            repositories = await load_all(client, GitHubRepository)
            with _measured(engine) as disk:
                images, notes = await _remove_images(client, engine, timedelta(days=days), log)
                cache = engine.prune_cache(unused_days=days, most_mib=cache_mib)
    pruned = Pruned(
        images=tuple(images),
        cache_bytes=cache,
        containers=tuple(containers),
        mirrors=tuple(mirrors),
        locks=remove_old_locks(),
        freed_bytes=disk.freed if images or cache else None,
        notes=tuple(notes),
    )
    show_markdown(ARTIFACT, pruned.markdown(), "What was removed")
    log(pruned.summary)
    for name, repository in repositories.items():  # last: it may take a while, and some space
        repository.pack(name)
    return Completed(message=pruned.summary)


async def _remove_images(
    client: PrefectClient, engine: Engine, age: timedelta, log: Callable[[str], None]
) -> tuple[list[StoredImage], list[str]]:
    """Remove the images that are not needed; returns them, and what was left alone."""
    before = datetime.now(UTC) - age
    stacks = await _serving(client)
    sources: dict[str, set[str]] = {}
    for name, repository in (await load_all(client, GitHubRepository)).items():
        if name not in stacks.unknown:
            sources.setdefault(repository.public_url, set()).add(name)
    stored = engine.built_images()
    # Last, so that a run which has begun meanwhile is among them.
    by_runs = await needed_by_runs(client, before)
    needed = Needed(
        image_ids=engine.images_in_use(),
        digests=by_runs.digests | stacks.digests,
        shas=by_runs.shas | stacks.shas,
    )
    gone = []
    for image in superfluous(stored, sources, needed, before):
        # The same lock as the build's, which may just now take this image again.
        with one_at_a_time(f"build-{image.labels[KEY_LABEL]}"):
            now = engine.built_image(image.id)
            if now and superfluous([now], sources, needed, before) and engine.remove_built(now):
                log(f"Removed {', '.join(now.names) or now.id}")
                gone.append(now)
    return gone, list(stacks.unknown.values())


@dataclass
class _Stacks:
    """What the stacks run: digests and commits; and by repository why that could not be seen."""

    digests: set[str] = field(default_factory=set)
    shas: set[str] = field(default_factory=set)
    unknown: dict[str, str] = field(default_factory=dict)


async def _serving(client: PrefectClient) -> _Stacks:
    found = _Stacks()
    for route in await read_routes(client):
        if route.stack is None:
            continue
        try:
            serving = stack_called(route.stack).serving(route.stack)
        except SamebitsError as error:
            found.unknown[route.repository] = (
                f"The images of {route.repository} stay: what {route.stack} runs "
                f"cannot be seen. {error.what}"
            )
            continue
        if serving:
            found.digests.add(serving.digest)
            found.shas.add(serving.sha)
    return found


async def _remove_ended_tests(client: PrefectClient, engine: Engine) -> list[str]:
    """Remove the stopped containers of tests whose run has ended or is deleted."""
    labels = {"samebits.role": "test", "samebits.system": system_name()}
    stopped = [c for c in engine.containers(labels) if not c.running]
    ids = {c.labels.get("samebits.run", "") for c in stopped} - {""}
    runs = await read_runs_by_id(client, [UUID(run_id) for run_id in ids])
    going = {str(run.id) for run in runs if not (run.state and run.state.is_final())}
    ended = [c for c in stopped if c.labels.get("samebits.run", "") not in going]
    for container in ended:
        engine.remove(container.id)
    return [container.name for container in ended]


@dataclass
class _Disk:
    freed: int | None = None


@contextmanager
def _measured(engine: Engine) -> Iterator[_Disk]:
    """How much more is free on the engine's disk at the end; others write there meanwhile."""
    disk, folder = _Disk(), engine.folder()
    before = free_bytes(folder) if folder else 0
    yield disk
    if folder:
        disk.freed = max(free_bytes(folder) - before, 0)
