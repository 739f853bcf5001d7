"""Runs that stay in a step for a while, so that something can happen to them there."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, TaskRun

from blocks.engine import DockerHost
from blocks.prefect_api import prefect_api, read_runs, read_steps, step_name
from deployments import example
from deployments.demo_watch import Watch
from tests.conftest import unique
from tests.e2e.conftest import Clone

_SLOW_SECONDS = 5


def slow(clone: Clone, step: str, subject: str) -> str:
    """Commit a version that takes a few seconds in a step; returns the SHA."""
    files = {"VERSION": unique()}
    if step == "build":
        docker = (example.SOURCE / "Dockerfile").read_text()
        files["Dockerfile"] = docker.replace("USER", f"RUN sleep {_SLOW_SECONDS}\nUSER")
    elif step in ("test", "publish"):
        files["Makefile"] = f"test:\n\tsleep {_SLOW_SECONDS}\n"
    elif step == "deploy":
        service = (example.SOURCE / "hello.py").read_text()
        wait = f"    __import__('time').sleep({_SLOW_SECONDS})\n    server ="
        files["hello.py"] = service.replace("    server =", wait, 1)
    return clone.commit(files, subject)


@asynccontextmanager
async def held(
    watch: Watch, sha: str, branch: str, step: str, host: DockerHost, registry: str
) -> AsyncIterator[FlowRun]:
    """The run of a slow commit, in this step; publish waits for the registry while this lasts."""
    if step != "publish":
        yield await in_step(watch, sha, branch, step)
        return
    await in_step(watch, sha, branch, "test")  # build asks the registry, too
    with host.get_client() as client:
        container = client.containers.get(registry)
        container.pause()
        try:
            yield await in_step(watch, sha, branch, step)
        finally:
            with suppress(Exception):  # an engine that was killed has let it go
                container.unpause()


@asynccontextmanager
async def caught(
    clone: Clone, watch: Watch, step: str, subject: str, host: DockerHost, chance: random.Random
) -> AsyncIterator[tuple[str, FlowRun]]:
    """A new commit of master (its SHA) and its run, at any moment of this step."""
    sha = slow(clone, step, subject)
    clone.push(sha, "master")
    registry = f"{clone.settings.name}-registry"
    async with held(watch, sha, "master", step, host, registry) as run:
        await asyncio.sleep(chance.uniform(0, 3))
        yield sha, run


async def run_of(watch: Watch, sha: str, branch: str, seconds: float = 240) -> FlowRun:
    """The run of a commit on a branch, once there is one."""
    deadline = time.monotonic() + seconds
    async with prefect_api() as client:
        while time.monotonic() < deadline:
            for run in await read_runs(client, watch._since):
                commit = run.parameters.get("commit") or {}
                if (commit.get("sha"), commit.get("branch")) == (sha, branch):
                    return run
            await asyncio.sleep(0.3)
    raise AssertionError(f"{sha[:8]} on {branch} has no run after {seconds:g} s")


async def in_step(watch: Watch, sha: str, branch: str, step: str, seconds: float = 300) -> FlowRun:
    """The run of a commit, once it is in this step."""
    deadline = time.monotonic() + seconds
    run = await run_of(watch, sha, branch)
    async with prefect_api() as client:
        while time.monotonic() < deadline:
            steps = await read_steps(client, run.id)
            if any(step_name(s) == step and s.state and s.state.is_running() for s in steps):
                return await client.read_flow_run(run.id)
            run = await client.read_flow_run(run.id)
            if run.state and run.state.is_final():
                break
            await asyncio.sleep(0.2)
    state = f"{run.state_name}: {run.state.message if run.state else ''}"
    raise AssertionError(f"it was not in {step} within {seconds:g} s: {state}")


async def steps_of(run_id: UUID) -> list[TaskRun]:
    """All tries of the steps of a run."""
    async with prefect_api() as client:
        return await read_steps(client, run_id)


def process_of(run: FlowRun) -> int:
    """The PID of a run's process, which Prefect's worker has written down."""
    return int(str(run.infrastructure_pid).rpartition(":")[2])
