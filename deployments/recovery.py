"""What becomes of the runs that a worker had when it ended: started again, or ended and told."""

import contextlib
import logging
import os
import signal
import socket
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Scheduled

from blocks.prefect_api import read_unfinished_runs
from blocks.process import is_run
from domain.marks import RESTARTED, restarted, restarts

STOPPED = "The system was stopped while this run was going on. Retry it."
DIED = "The worker died while this run was going on, and its process with it. Retry it."

NO_PROCESS = "Its process has ended without a word. Retry it."

_WORKER = "prefect.worker.name"
"""The label that Prefect's workers write on a run just after they have taken it; of the warm worker
the run itself says so, before its process: `worker@host:pid`
"""

_LABELLED_AFTER = timedelta(seconds=5)
_SETTLES_AFTER = timedelta(seconds=60)
log = logging.getLogger("samebits.recovery")


def worker_of(run: FlowRun) -> str:
    """The name of the worker that has a run, or had it last; empty if none has written it."""
    worker, _, _ = (run.infrastructure_pid or "").rpartition("@")
    return worker or str(run.labels.get(_WORKER, ""))


async def recover(client: PrefectClient, worker: str, most_restarts: int) -> None:
    """Start the runs again that this worker left when it died; call it before the worker works.

    What was being cancelled is cancelled, and what was started again `most_restarts` times crashes.
    """
    for run in await _left_by(client, worker):
        times = restarts(run.labels)
        if run.state and run.state.is_cancelling():
            await _end(client, run, "")
        elif times >= most_restarts:
            await _end(client, run, _cut_off(times, most_restarts))
        else:
            # Counted first: a run that kills its host is not started again for ever.
            await client.update_flow_run_labels(run.id, restarted(times + 1))
            why = f"It was cut off, and goes on by itself ({times + 1} of at most {most_restarts})."
            await _set(client, run, Scheduled(name=RESTARTED, message=why))


async def end_runs(client: PrefectClient, worker: str, why: str) -> None:
    """End the runs that this worker has left: they crash, and the message says why."""
    for run in await _left_by(client, worker):
        await _end(client, run, why)


async def end_dead(client: PrefectClient, worker: str) -> None:
    """End the runs of this worker that have no process any more, and of which nobody was told; and
    the processes that were not told that their run is cancelled.

    Prefect's worker reports the end of a process once: not if the API is away in that moment. Of a
    cancellation it may not hear at all, when its connection breaks.
    """
    for run in await read_unfinished_runs(client):
        if worker_of(run) != worker or not _has_settled(run):
            continue
        if not _has_process(run):
            await end_run(client, run, NO_PROCESS)
        elif run.state and run.state.is_cancelling():
            _kill(run)


def _has_settled(run: FlowRun) -> bool:
    """Whether what is written of a run's process is of this try."""
    return bool(run.state and run.state.timestamp < datetime.now(UTC) - _SETTLES_AFTER)


def _has_process(run: FlowRun) -> bool:
    """Whether a run has a process, as far as that can be seen from here."""
    if not run.infrastructure_pid:
        return not (run.state and run.state.is_pending())  # it was taken long ago, and not begun
    pid = _pid(run)
    return pid is None or is_run(pid, str(run.id))


def _pid(run: FlowRun) -> int | None:
    """The process of a run; None for another host's, or one that was started in another way."""
    host, _, pid = (run.infrastructure_pid or "").rpartition("@")[2].rpartition(":")
    return int(pid) if host == socket.gethostname() and pid.isdecimal() else None


def _kill(run: FlowRun) -> None:
    """Kill the process that a run has, if it is one of this host."""
    if (pid := _pid(run)) is not None:
        log.warning("run %s (%s) is cancelled and goes on: it is killed", run.name, run.id)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def end_run(client: PrefectClient, run: FlowRun, why: str) -> None:
    """End a run that nobody has any more, if it still stands as it was read."""
    with contextlib.suppress(ObjectNotFound):
        now = await client.read_flow_run(run.id)
        if now.state_id == run.state_id:
            await _end(client, run, why)


async def _left_by(client: PrefectClient, worker: str) -> list[FlowRun]:
    """The unfinished runs of this worker, and those that a worker took and never began."""
    return [
        run
        for run in await read_unfinished_runs(client)
        if worker_of(run) == worker or _was_never_begun(run)
    ]


def _was_never_begun(run: FlowRun) -> bool:
    if worker_of(run) or not run.state or not run.state.is_pending():
        return False
    return run.state.timestamp < datetime.now(UTC) - _LABELLED_AFTER


async def _end(client: PrefectClient, run: FlowRun, why: str) -> None:
    if run.state and run.state.is_cancelling():
        await _set(client, run, Cancelled(message="It was cancelled as its worker ended."))
    else:
        await _set(client, run, Crashed(message=why))


async def _set(client: PrefectClient, run: FlowRun, state: State[None]) -> None:
    log.warning("run %s (%s): %s. %s", run.name, run.id, state.name, state.message)
    with contextlib.suppress(ObjectNotFound):
        await client.set_flow_run_state(run.id, state, force=True)


def _cut_off(times: int, most: int) -> str:
    if not most:
        return DIED
    return (
        f"It was cut off once more, after it was started again {times} times: it is not started "
        "by itself any more. Find out what ends the worker or its host (memory? the disk?), "
        "then retry it."
    )
