"""Which worker runs the runs: the warm one, unless a team wants one of Prefect's own."""

from pathlib import Path

import pytest

from blocks.prefect_api import POOL, prefect_api
from deployments.demo_watch import Watch
from deployments.recovery import worker_of
from deployments.system import System
from deployments.warm.worker import WarmWorker
from tests.conftest import unique
from tests.e2e.conftest import Clone

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


async def test_the_warm_worker_is_chosen_and_forks_each_run_from_one_parent(
    system: System, clone: Clone, watch: Watch
) -> None:
    pids, workers = list[str](), list[str]()
    for _ in range(2):
        sha = clone.commit({"VERSION": unique()}, "Who runs this?")
        clone.push(sha, "feature/who", force=True)
        seen = await watch.finished(sha, "feature/who", 1, print)
        async with prefect_api() as client:
            run = await client.read_flow_run(seen.id)
        worker, _, process = str(run.infrastructure_pid).rpartition("@")
        assert worker_of(run) == worker
        workers.append(worker)
        pids.append(process.rpartition(":")[2])
    async with prefect_api() as client:
        (only,) = await client.read_workers_for_work_pool(POOL)
        assert set(workers) == {only.name}
        assert (await client.read_work_pool(POOL)).type == WarmWorker.type
    assert len(set(pids)) == 2
    assert len(parents(str(system.settings.home))) == 1


def parents(home: str) -> list[str]:
    """The processes that the runs of a system are forked from."""
    return [
        command.parent.name
        for command in Path("/proc").glob("[0-9]*/cmdline")
        if _text(command).startswith("samebits parent of the runs")
        and home in _text(command.parent / "environ")
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
