"""The engine dies in mid-run: the step is tried again, and nothing is green by mistake."""

import asyncio
import random

import pytest

from blocks.engine import DockerHost, Engine
from deployments.demo_watch import Watch
from deployments.system import System
from tests.e2e.conftest import Clone
from tests.e2e.holding import held, slow
from tests.e2e.own_network.conftest import OwnEngine
from tests.fault_plugin import fault
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


FAULT = "dockerd SIGKILLed in build, test, publish"


@fault(FAULT, trials=5, quick=1)
async def test_tests_whose_engine_is_killed_run_again(killed: "Killed") -> None:
    await killed.in_step("test")


@pytest.mark.parametrize("step", ["build", "publish"])
@fault(FAULT, trials=5, quick=0)
async def test_a_step_whose_engine_is_killed_is_tried_again(killed: "Killed", step: str) -> None:
    await killed.in_step(step)


class Killed:
    """A run whose engine is killed at some moment of a step."""

    def __init__(
        self, clone: Clone, watch: Watch, system: System, engine: OwnEngine, chance: random.Random
    ) -> None:
        self._clone, self._watch, self._system = clone, watch, system
        self._engine, self._chance = engine, chance

    async def in_step(self, step: str) -> None:
        """Kill it, and see that the run passes with the right image, and leaves nothing."""
        sha = slow(self._clone, step, f"Engine killed in {step}")
        self._clone.push(sha, "master")
        registry = f"{self._system.settings.name}-registry"
        async with held(self._watch, sha, "master", step, DockerHost(), registry) as run:
            await asyncio.sleep(self._chance.uniform(0.5, 3))
            self._engine.kill()  # in this thread: a child ends with the thread that started it
        looking = asyncio.create_task(self._look_after())
        try:
            seen = await self._watch.finished(sha, "master", 1, print, seconds=400)
        finally:
            looking.cancel()
        assert seen.state == "COMPLETED", seen
        assert await self._watch.serving("stage") == self._watch.published(sha)
        with Engine(DockerHost()) as engine:
            labels = {"samebits.run": str(run.id), "samebits.role": "test"}
            # What the first try left is removed by the worker, once the run is over.
            wait_until(lambda: not engine.containers(labels), 30, "no container is left")

    async def _look_after(self) -> None:
        """As `samebits up` does."""
        while True:
            await asyncio.sleep(1)
            await asyncio.to_thread(self._system.look_after)


@pytest.fixture
def killed(
    clone: Clone, watch: Watch, system: System, own_engine: OwnEngine, chance: random.Random
) -> Killed:
    return Killed(clone, watch, system, own_engine, chance)
