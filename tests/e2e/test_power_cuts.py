"""Everything dies at once, as in a power cut, or Prefect's server alone: no hand is needed."""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blocks.engine import DockerHost, Engine
from blocks.prefect_api import read_runs
from deployments.demo_watch import Watch
from domain.marks import restarts
from domain.message import STEPS
from tests.e2e.conftest import Clone, free_settings
from tests.e2e.holding import caught
from tests.e2e.up import Up, up
from tests.fault_plugin import fault
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def whole(
    name: str, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Up]:
    """A system that stays up from one trial to the next."""
    home = tmp_path_factory.mktemp("power") / "home"
    with up(free_settings(f"{name}-power", home), docker_host) as made:
        yield made


@pytest.mark.parametrize("step", STEPS)
@fault("everything SIGKILLed in each of the four steps, then started again", trials=5, quick=0)
async def test_a_run_that_a_power_cut_ends_goes_on_by_itself_and_deploys_once(
    whole: Up,
    docker_host: DockerHost,
    engine: Engine,
    chance: random.Random,
    tmp_path: Path,
    step: str,
) -> None:
    whole.start()
    clone, subject = Clone(whole.settings, tmp_path), f"Cut off in {step}"
    async with whole.api() as client:
        watch = Watch(whole.settings, client)
        async with caught(clone, watch, step, subject, docker_host, chance) as (sha, run):
            whole.cut_the_power()
    whole.start()
    async with whole.api() as client:
        watch = Watch(whole.settings, client)
        seen = await watch.finished(sha, "master", 2, print, seconds=400)
        recent = await read_runs(client, datetime.now(UTC) - timedelta(hours=1))
        (only,) = [one for one in recent if one.parameters["commit"]["sha"] == sha]
        assert (only.id, seen.state, restarts(only.labels)) == (run.id, "COMPLETED", 1), seen
        await watch.told(run.id, "passed", "attempt 2")
        assert await watch.serving("stage") == watch.published(sha)
    wait_until(lambda: deployed(whole, engine) == [sha], 30, "the old version ends")
    assert not engine.containers({"samebits.run": str(run.id), "samebits.role": "test"})


@pytest.mark.parametrize("step", STEPS)
@fault("Prefect's server SIGKILLed in each of the four steps", trials=5, quick=0)
async def test_a_run_goes_on_though_prefects_server_dies_and_is_started_again(
    whole: Up,
    docker_host: DockerHost,
    engine: Engine,
    chance: random.Random,
    tmp_path: Path,
    step: str,
) -> None:
    whole.start()
    clone, subject = Clone(whole.settings, tmp_path), f"No server in {step}"
    async with whole.api() as client:
        watch = Watch(whole.settings, client)
        async with caught(clone, watch, step, subject, docker_host, chance) as (sha, run):
            (server,) = whole.processes("deployments.prefect_server")
            os.kill(server, signal.SIGKILL)
    await asyncio.to_thread(
        wait_until,
        lambda: server not in whole.processes("deployments.prefect_server"),
        30,
        "it is dead",
    )
    await asyncio.to_thread(wait_until, whole.answers, 60, "it is started again")
    async with whole.api() as client:
        watch = Watch(whole.settings, client)
        seen = await watch.finished(sha, "master", 1, print, seconds=400)
        assert seen.state == "COMPLETED", seen
        await watch.told(run.id, "passed", subject)
        assert await watch.serving("stage") == watch.published(sha)
    wait_until(lambda: deployed(whole, engine) == [sha], 30, "the old version ends")


def deployed(whole: Up, engine: Engine) -> list[str]:
    """The commits whose versions run on the stack `stage`."""
    stack = {"samebits.stack": f"{whole.settings.name}-stage", "samebits.role": "version"}
    return [container.labels["samebits.commit"] for container in engine.containers(stack)]
