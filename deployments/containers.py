"""Containers of tests whose run has no process any more: they are removed."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from blocks.engine import Container, DockerHost, Engine
from blocks.loading import load_if_there
from blocks.prefect_api import prefect_api, read_runs_by_id
from deployments.recovery import worker_of
from domain.errors import SamebitsError
from flows.steps import ENGINE

_LOOK_SECONDS = 5.0
_BLOCK_SECONDS = 60.0
"""How long the engine's block is taken for known: to read it costs more than to look"""
log = logging.getLogger("samebits.containers")


class DeadContainers:
    """Removes what a run left that was killed; a run that ends by itself removes its own."""

    def __init__(
        self,
        system: str,
        api: Callable[[], AbstractAsyncContextManager[PrefectClient]] = prefect_api,
    ) -> None:
        self._labels = {"samebits.role": "test", "samebits.system": system}
        self._api = api
        self._host, self._known_until = DockerHost(), 0.0

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.remove()
            await asyncio.sleep(_LOOK_SECONDS)

    async def remove(self, ended_worker: str = "") -> None:
        """Remove the containers whose run is over, or is one of a worker that has ended.

        What cannot be reached now is looked at the next time.
        """
        try:
            async with self._api() as client:
                host = await self._engine_of(client)
                found = await asyncio.to_thread(_containers, host, self._labels)
                ids = {run_id for c in found if (run_id := _run_of(c))}
                runs = {run.id: run for run in await read_runs_by_id(client, list(ids))}
            for container in found:
                run_id = _run_of(container)
                if run_id and _is_over(runs.get(run_id), ended_worker):
                    log.warning("container %s of run %s is removed", container.name, run_id)
                    await asyncio.to_thread(_remove, host, container)
        except SamebitsError as error:
            self._known_until = 0.0
            log.info("containers are not looked at now: %s", error)

    async def _engine_of(self, client: PrefectClient) -> DockerHost:
        now = time.monotonic()
        if now >= self._known_until:
            self._host = await load_if_there(client, DockerHost, ENGINE) or DockerHost()
            self._known_until = now + _BLOCK_SECONDS
        return self._host


def _is_over(run: FlowRun | None, ended_worker: str) -> bool:
    """Whether a run, as it was read after its container, can have no process."""
    if run is None or run.state is None or run.state.is_final() or run.state.is_scheduled():
        return True
    return bool(ended_worker) and worker_of(run) == ended_worker


def _run_of(container: Container) -> UUID | None:
    try:
        return UUID(container.labels.get("samebits.run", ""))
    except ValueError:
        return None  # made by hand, in no run


def _containers(host: DockerHost, labels: dict[str, str]) -> list[Container]:
    with Engine(host) as engine:
        return engine.containers(labels)


def _remove(host: DockerHost, container: Container) -> None:
    with Engine(host) as engine:
        engine.remove(container.id)
