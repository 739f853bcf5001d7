"""The worker: whether one is there to run anything."""

from collections.abc import Sequence
from datetime import datetime

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Worker, WorkPool, WorkQueue
from prefect.exceptions import ObjectNotFound

from blocks.prefect_api import POOL
from deployments.checks.checking import Scene, server_now
from domain.health import Finding, age, failed, is_silent, ok

WORKER = "worker"


async def check_worker(scene: Scene, client: PrefectClient) -> list[Finding]:
    """Whether one is online in the pool, and the pool lets it work."""
    try:
        pool = await client.read_work_pool(POOL)
    except ObjectNotFound:
        said = f"There is no work pool {POOL}."
        return [failed(WORKER, said, "make up makes it; on several hosts see docs/operating.md.")]
    workers = await client.read_workers_for_work_pool(POOL)
    queues = await client.read_work_queues(work_pool_name=POOL)
    return [judge(workers, pool, queues, await server_now(client), here=scene.here)]


def judge(
    workers: Sequence[Worker],
    pool: WorkPool,
    queues: Sequence[WorkQueue],
    now: datetime,
    *,
    here: bool,
) -> Finding:
    """How the worker stands."""
    beats = sorted(
        ((w.last_heartbeat_time, w.name) for w in workers if w.last_heartbeat_time), reverse=True
    )
    alive = [(beat, name) for beat, name in beats if not is_silent(beat, now)]
    start = "Start the system: make up" if here else "Start one: docs/operating.md, Several hosts."
    if not alive and not beats:
        return failed(WORKER, f"None was ever online in the pool {POOL}.", start)
    if not alive:
        beat, name = beats[0]
        said = f"None is online. The last heartbeat, of {name}, is {age(beat, now)} ago."
        return failed(WORKER, said, f"{start} If it runs, see its log.")
    if pool.is_paused:
        hint = f"Resume it: prefect work-pool resume {POOL}, or in the UI under Work Pools."
        return failed(WORKER, f"The pool {POOL} is paused: no run starts.", hint)
    if paused := [queue.name for queue in queues if queue.is_paused]:
        hint = "Resume it in the UI, under Work Pools → Work Queues."
        return failed(WORKER, f"Paused: the work queue {', '.join(paused)}.", hint)
    named = ", ".join(f"{name}, last heartbeat {age(beat, now)} ago" for beat, name in alive)
    return ok(WORKER, f"online: {named}")
