"""A newer push while an older commit is under way, in the whole system."""

import pytest
from prefect.client.schemas.objects import FlowRun

from blocks.engine import Engine
from blocks.prefect_api import prefect_api
from deployments.demo_watch import Seen, Watch
from domain.marks import SUPERSEDED
from tests.conftest import unique
from tests.e2e.conftest import Clone
from tests.e2e.test_pipeline import containers_of, ended, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
_SECONDS = 60


async def must_have_given_way(watch: Watch, run: Seen, to: str) -> FlowRun:
    async with prefect_api() as client:
        found = await client.read_flow_run(run.id)
        while found.state_name != SUPERSEDED:
            found = await client.read_flow_run(run.id)
    assert found.state
    assert to[:8] in (found.state.message or "")
    await watch.told(run.id, "superseded", f"gave way to {to[:8]}")
    return found


async def test_tests_give_way_to_a_newer_push_within_seconds_and_leave_no_container(
    clone: Clone, watch: Watch, engine: Engine
) -> None:
    old = clone.commit({"Makefile": "test:\n\tsleep 600\n", "VERSION": unique()}, "Endless")
    clone.push(old, "feature/hurry", force=True)
    run = await running(watch, old, engine)
    new = clone.commit({"Makefile": "test:\n\ttrue\n", "VERSION": unique()}, "Quick")
    clone.push(new, "feature/hurry")
    wait_until(lambda: not containers_of(engine, run), _SECONDS, "the container is gone")
    await must_have_given_way(watch, await ended(watch, old, "feature/hurry"), to=new)
    assert (await ended(watch, new, "feature/hurry")).state == "COMPLETED"


async def test_a_run_that_waits_for_its_stack_gives_way_and_the_newer_one_deploys(
    clone: Clone, watch: Watch
) -> None:
    async with prefect_api() as client:
        limit = ["stack-stage"]
        await client.upsert_global_concurrency_limit_by_name(limit[0], 1)
        await client.increment_concurrency_slots(limit, 1, mode="concurrency")
        try:
            old = clone.commit({"VERSION": unique()}, "It waits")
            clone.push(old, "master")
            published = watch.published(old)
            while not published:
                published = watch.published(old)
            new = clone.commit({"VERSION": unique()}, "It is newer")
            clone.push(new, "master")
            await must_have_given_way(watch, await ended(watch, old, "master"), to=new)
        finally:
            await client.release_concurrency_slots(limit, 1, 1)
    assert (await ended(watch, new, "master")).state == "COMPLETED"
    assert await watch.serving("stage") == watch.published(new)
