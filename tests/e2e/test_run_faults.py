"""Whole runs, and what must become of them when something dies, races or is pushed away."""

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Self

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun

from blocks.engine import Container, DockerHost, Engine
from blocks.prefect_api import prefect_api
from deployments.demo_watch import Seen, Watch
from deployments.system import System
from domain.message import STEPS
from tests.conftest import unique
from tests.e2e.conftest import Clone
from tests.e2e.holding import caught, in_step, process_of, slow
from tests.fault_plugin import fault

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


async def ended(watch: Watch, sha: str, branch: str, attempt: int = 1) -> Seen:
    return await watch.finished(sha, branch, attempt, print, seconds=400)


def versions(engine: Engine, system: System, stack: str) -> list[str]:
    """The commits of the versions that a stack has on the engine."""
    labels = {"samebits.stack": f"{system.settings.name}-{stack}", "samebits.role": "version"}
    return [container.labels["samebits.commit"] for container in engine.containers(labels)]


def containers_of(engine: Engine, run: FlowRun) -> list[Container]:
    """The containers of a run's tests."""
    return engine.containers({"samebits.run": str(run.id), "samebits.role": "test"})


# -- a run's process dies ---------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@fault("a run's process SIGKILLed in each of the four steps", trials=10, quick=1)
async def test_a_run_whose_process_is_killed_crashes_is_told_and_its_retry_passes(
    clone: Clone,
    watch: Watch,
    system: System,
    docker_host: DockerHost,
    engine: Engine,
    chance: random.Random,
    step: str,
) -> None:
    subject = f"Killed in {step}"
    async with caught(clone, watch, step, subject, docker_host, chance) as (sha, run):
        os.kill(process_of(run), signal.SIGKILL)
        killed = time.monotonic()
        seen = await ended(watch, sha, "master")
    assert seen.state == "CRASHED", seen
    assert time.monotonic() - killed < 120
    await watch.told(run.id, "crashed", subject)
    await eventually(lambda: not containers_of(engine, run), "its container is removed")
    await watch.retry(run.id)
    again = await ended(watch, sha, "master", attempt=2)
    assert again.state == "COMPLETED", again
    await watch.told(run.id, "passed", "attempt 2")
    assert await watch.serving("stage") == watch.published(sha)
    await eventually(lambda: versions(engine, system, "stage") == [sha], "the old version ends")


async def eventually(ready: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(ready):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.2)


# -- pushes that race -------------------------------------------------------------------------


class Served:
    """What a stack says that it serves, as long as this is open: each change, with its time."""

    def __init__(self, port: int) -> None:
        self._url, self._stop = f"http://127.0.0.1:{port}/", threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.changes: list[tuple[str, float]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def versions(self) -> list[str]:
        return [version for version, _ in self.changes]

    def _look(self) -> None:
        with httpx.Client(timeout=10) as client:
            while not self._stop.wait(0.05):
                try:
                    said = client.get(self._url).text
                except httpx.HTTPError:
                    continue
                version = said.rpartition(" ")[2].strip().rstrip(".")
                if version and [version] != self.versions()[-1:]:
                    self.changes.append((version, time.monotonic()))


@fault("two pushes racing to one stack, real", trials=20, quick=2)
async def test_of_two_pushes_that_race_the_newer_serves_and_the_stack_never_goes_back(
    clone: Clone, watch: Watch, system: System, chance: random.Random, trial: int
) -> None:
    names = [unique(), unique()]
    shas = [clone.commit({"VERSION": name}, f"Racer {n}") for n, name in enumerate(names)]
    with Served(system.settings.stage_port) as served:
        if trial % 2:
            # By hand, so that it does not give way before it deploys.
            await race_by_hand(clone, *shas, chance)
        else:
            clone.push(shas[0], "master")
            await asyncio.sleep(chance.uniform(0, 8))
            clone.push(shas[1], "master")
        older, newer = [await ended(watch, sha, "master") for sha in shas]
    assert newer.state == "COMPLETED", newer
    assert older.state in ("COMPLETED", "CANCELLED"), older
    assert await watch.serving("stage") == watch.published(shas[1])
    seen = [name for name in served.versions() if name in names]
    assert seen in (names, names[1:]), served.changes
    if older.state == "CANCELLED":
        await watch.told(older.id, "superseded", shas[1][:8])
        assert names[0] not in seen


async def race_by_hand(clone: Clone, older: str, newer: str, chance: random.Random) -> None:
    """Push the newer one, and start the older one beside it, or late."""
    commit = {"repository": "hello-service", "branch": "master", "sha": older}
    clone.push(newer, "master")
    await asyncio.sleep(chance.uniform(0, 4))
    async with prefect_api() as client:
        master = await client.read_deployment_by_name("pipeline/hello-service-master")
        await client.create_flow_run_from_deployment(master.id, parameters={"commit": commit})


@fault("force-push or deletion of a branch in mid-run", trials=20, quick=2)
async def test_a_commit_that_is_pushed_away_in_mid_run_is_not_deployed(
    clone: Clone, watch: Watch, system: System, chance: random.Random, trial: int
) -> None:
    step = chance.choice(["test", "deploy"])
    base = clone.git("rev-parse", "HEAD")
    name = unique()
    clone.write({"NEEDS": ""})
    sha = slow(clone, step, "Pushed away")
    gone = clone.git("show", f"{sha}:VERSION")
    clone.git("checkout", "--quiet", "--detach", base)
    other = clone.commit({"VERSION": name}, "In its place")
    with Served(system.settings.prod_port) as served:
        clone.push(sha, "release", force=True)
        run = await in_step(watch, sha, "release", step)
        await asyncio.sleep(chance.uniform(0, 4))
        before = gone in served.versions()
        if trial % 2:
            clone.git("push", "--quiet", "origin", "--delete", "release")
        else:
            clone.push(other, "release", force=True)
        pushed_away = time.monotonic()
        seen = await ended(watch, sha, "release")
        if not trial % 2:
            assert (await ended(watch, other, "release")).state == "COMPLETED"
            assert await watch.serving("prod") == watch.published(other)
    later = [at for version, at in served.changes if version == gone and at > pushed_away + 1]
    assert not later, (served.changes, pushed_away)
    if seen.state == "COMPLETED":
        assert before or gone in served.versions(), seen
    else:
        assert seen.state in ("CANCELLED", "FAILED"), seen
        await watch.told(run.id, "superseded" if seen.state == "CANCELLED" else "failed")
