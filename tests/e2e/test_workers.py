"""Which worker runs the runs: the warm one, and where a team wants it so, Prefect's own."""

import asyncio
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName

from blocks.prefect_api import PIPELINE, POOL, prefect_api
from deployments.demo_watch import Watch
from deployments.environment import child_environment
from deployments.recovery import worker_of
from deployments.system import System
from deployments.warm.worker import WarmWorker
from tests.conftest import unique
from tests.e2e.conftest import Clone

_SETTINGS = {"build": {"args": {"BASE": "samebits/python:local"}}}
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


async def test_prefects_process_worker_runs_the_same_flow(
    system: System, clone: Clone, watch: Watch
) -> None:
    sha = clone.commit({"VERSION": unique()}, "By Prefect's own worker")
    clone.git("push", "--quiet", "--force", "origin", f"{sha}:refs/heads/feature/own")
    first = await watch.finished(sha, "feature/own", 1, print)
    async with prefect_api() as client:
        run_id = await _run_in_a_pool_of_its_own(client, sha)
        worker = ["worker", "start", "--pool", "own", "--run-once", "--name", "own"]
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "prefect", *worker],
            env=child_environment(system.settings),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        run = await client.read_flow_run(run_id)
    assert run.state, done.stderr
    assert run.state.is_completed(), f"{run.state}\n{done.stdout}\n{done.stderr}"
    assert run.labels["prefect.worker.type"] == "process"
    assert first.state == "COMPLETED"


async def _run_in_a_pool_of_its_own(client: PrefectClient, sha: str) -> UUID:
    await client.create_work_pool(WorkPoolCreate(name="own", type="process"))
    (flow,) = await client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=[PIPELINE])))
    deployment = await client.create_deployment(
        flow.id,
        name="own",
        entrypoint="flows.pipeline.pipeline",
        work_pool_name="own",
        pull_steps=[],
        path=".",
    )
    commit = {"repository": "hello-service", "branch": "feature/own", "sha": sha}
    parameters = {"commit": commit, "settings": _SETTINGS}
    return (await client.create_flow_run_from_deployment(deployment, parameters=parameters)).id


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
