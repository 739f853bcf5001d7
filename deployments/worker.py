"""`samebits work`: Prefect's worker, which first puts in order what the one before it left."""

import asyncio
import contextlib
import logging
import re
import signal
from collections.abc import Coroutine, Iterator

from filelock import FileLock, Timeout
from prefect.settings import PREFECT_API_URL

from blocks.prefect_api import POOL, prefect_api
from deployments.console import show_log
from deployments.containers import DeadContainers
from deployments.recovery import DIED, STOPPED, end_dead, end_runs, recover
from deployments.settings import SystemSettings
from deployments.warm.worker import WarmWorker
from domain.errors import BadInput, SamebitsError, ServerUnavailable, StartFailed
from domain.names import one_line

_NAME = re.compile(r"[\w.-]{1,100}")
_HEARTBEAT_SECONDS = 10
_MOST_WAIT_SECONDS = 30.0
_END_SECONDS = 8.0
_LOOK_SECONDS = 20.0
log = logging.getLogger("samebits.worker")


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
    worker = WarmWorker(
        POOL,
        name=name,
        limit=settings.runs_at_once,
        heartbeat_interval_seconds=_HEARTBEAT_SECONDS,
        # Prefect's own would let whoever starts a run choose the folder that it runs in.
        create_pool_if_not_found=False,
    )
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
