"""`samebits work`: Prefect's worker, which first puts in order what the one before it left."""

import asyncio
import contextlib
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TypeVar

import httpx
from filelock import FileLock, Timeout
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from blocks.prefect_api import POOL, prefect_api
from blocks.process import WORKER_PID
from deployments.console import show_log
from deployments.containers import DeadContainers
from deployments.recovery import DIED, STOPPED, end_dead, end_runs, recover
from deployments.settings import SystemSettings
from domain.errors import BadInput, SamebitsError, ServerUnavailable, StartFailed
from domain.names import one_line

_NAME = re.compile(r"[\w.-]{1,100}")
_HEARTBEAT_SECONDS = 10
_MOST_WAIT_SECONDS = 30.0
_END_SECONDS = 8.0
_AWAY_SECONDS = 2.0
_LOOK_SECONDS = 20.0
log = logging.getLogger("samebits.worker")
Answer = TypeVar("Answer")
Report = Callable[..., Coroutine[None, None, None]]
_SECOND_REPORT = "Flow run infrastructure exited with non-zero status code"


class _Run(ProcessJobConfiguration):
    """How a run's process is started.

    Where no command is given, Prefect's worker starts a process that looks for the flow's code and
    then becomes the engine, and another one for hooks: it loads Prefect twice for each run.
    """

    command: str | None = shlex.join([sys.executable, "-m", "prefect.engine"])


class Patience:
    """Waits for an API that is away, while the runs go on.

    Prefect's worker alone gives up after about 20 s, and ends its runs with it.
    """

    def __init__(self) -> None:
        self._away = False

    def for_(
        self, call: Callable[[], Awaitable[Answer]], otherwise: Answer
    ) -> Callable[[], Coroutine[None, None, Answer]]:
        """The same call, which answers `otherwise` where the API is away, after a while."""

        async def patient() -> Answer:
            try:
                answer = await call()
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                    raise
                self._say(away=True, why=one_line(f"{type(error).__name__}: {error}", 200))
                await asyncio.sleep(_AWAY_SECONDS)
                return otherwise
            self._say(away=False, why="")
            return answer

        return patient

    def _say(self, *, away: bool, why: str) -> None:
        if away != self._away:
            self._away = away
            log.warning("Prefect's API is away: %s" if away else "Prefect's API is back%s", why)


def worker_name(settings: SystemSettings) -> str:
    """What a worker is called that is given no name."""
    return f"{settings.name}-worker"


def work(settings: SystemSettings, name: str = "", *, restart: bool = True) -> None:
    """Work until SIGTERM or SIGINT; then the runs that are going on end within seconds.

    With `restart`, runs that a worker of this name left when it died go on; else they crash.
    Raises BadInput, StartFailed, or ServerUnavailable where the API refuses it.
    """
    if not PREFECT_API_URL.value():
        raise BadInput(
            "The worker does not know where Prefect's API is.",
            hint="Set PREFECT_API_URL, e.g. http://127.0.0.1:4200/api, and PREFECT_API_AUTH_STRING "
            "if it asks for a password.",
        )
    name = name or worker_name(settings)
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} is no name of a worker.", hint="Letters, digits, dots, dashes and _ are."
        )
    show_log()
    os.environ[WORKER_PID] = str(os.getpid())
    with _only_one(settings, name):
        asyncio.run(_until_asked(_work(settings, name, restart=restart)))


@contextlib.contextmanager
def _only_one(settings: SystemSettings, name: str) -> Iterator[None]:
    """Two of one name would end each other's runs. The lock ends with its holder."""
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"worker-{name}.lock", timeout=0):
            yield
    except Timeout:
        raise StartFailed(
            f"A worker called {name} runs here already.",
            hint="Give this one another name: samebits work --name NAME",
        ) from None


async def _until_asked(working: Coroutine[None, None, None]) -> None:
    """Run it until SIGTERM or SIGINT, also where a script has started us with SIGINT ignored."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(working)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _work(settings: SystemSettings, name: str, *, restart: bool) -> None:
    containers = DeadContainers(settings.name)
    await _put_in_order(containers, name, settings.restarts if restart else None)
    worker = ProcessWorker(
        POOL,
        name=name,
        heartbeat_interval_seconds=_HEARTBEAT_SECONDS,
        # Prefect's own would let whoever starts a run choose the command that runs here.
        create_pool_if_not_found=False,
    )
    worker.job_configuration, patience = _Run, Patience()
    take, sync = worker.get_and_submit_flow_runs, worker.sync_with_backend
    worker.get_and_submit_flow_runs = patience.for_(take, [])  # type: ignore[method-assign]
    worker.sync_with_backend = patience.for_(sync, None)  # type: ignore[method-assign]
    worker._propose_crashed_state = _reported_once(worker._propose_crashed_state)  # type: ignore[method-assign]  # noqa: SLF001
    looking = [asyncio.create_task(containers.run()), asyncio.create_task(_end_dead(name))]
    try:
        await worker.start(printer=log.info)
    except asyncio.CancelledError:
        await end_all(settings, name)
        raise
    except Exception as error:
        raise ServerUnavailable(
            "The worker has ended: Prefect's API refuses it.",
            why=one_line(f"{type(error).__name__}: {error}", 300),
            hint="Its runs go on when it is started again.",
        ) from error
    finally:
        for task in looking:
            task.cancel()


def _reported_once(report: Report) -> Report:
    """Prefect's runner reports a process that died; its worker does so again, up to 1 s later.

    The second report would end a retry that was quick.
    """

    async def once(run: FlowRun, message: str, client: PrefectClient | None = None) -> None:
        if not message.startswith(_SECOND_REPORT):
            await report(run, message, client)

    return once


async def _end_dead(name: str) -> None:
    """See for ever to the runs whose processes are gone."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(SamebitsError):  # an API that is away is asked the next time
            async with prefect_api() as client:
                await end_dead(client, name)


async def _put_in_order(containers: DeadContainers, name: str, restarts: int | None) -> None:
    """See to what a worker of this name left when it died, as soon as the API answers."""
    pause = 1.0
    while True:
        try:
            async with prefect_api() as client:
                await containers.remove(ended_worker=name)
                if restarts is None:
                    await end_runs(client, name, DIED)
                else:
                    await recover(client, name, restarts)
        except SamebitsError as error:
            log.warning("the worker waits: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MOST_WAIT_SECONDS)
        else:
            return


async def end_all(settings: SystemSettings, name: str) -> None:
    """End the runs of a worker that was stopped, and remove their containers."""
    try:
        async with asyncio.timeout(_END_SECONDS), prefect_api() as client:
            await DeadContainers(settings.name).remove(ended_worker=name)
            await end_runs(client, name, STOPPED)
    except (SamebitsError, TimeoutError) as error:
        log.warning("the next start of %s sees to its runs: %s", name, error)
