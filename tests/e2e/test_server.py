"""Prefect's server as `up` starts it: on SQLite, writes take turns instead of failing."""

import asyncio

import httpx
import pytest
from prefect.client.schemas.filters import FlowFilter, FlowFilterName

from blocks.prefect_api import PRUNE, ensure_limit, prefect_api
from deployments.environment import api_password
from deployments.system import System
from tests.conftest import unique

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


async def test_of_fifty_runs_that_are_made_at_once_none_is_refused(system: System) -> None:
    async with prefect_api() as client:
        named = FlowFilter(name=FlowFilterName(any_=[PRUNE]))
        (flow,) = await client.read_flows(flow_filter=named)
    user, _, password = api_password(system.settings).partition(":")
    async with httpx.AsyncClient(
        base_url=system.settings.api_url, auth=(user, password), trust_env=False, timeout=120
    ) as plain:  # Prefect's own client would try again
        body = {"flow_id": str(flow.id), "name": "one of many"}
        answers = await asyncio.gather(*(plain.post("/flow_runs/", json=body) for _ in range(50)))
        made = [answer.json()["id"] for answer in answers if answer.is_success]
        for run_id in made:
            (await plain.delete(f"/flow_runs/{run_id}")).raise_for_status()
    assert [answer.status_code for answer in answers] == [201] * 50


async def test_a_limit_that_several_make_at_once_is_there_for_all_of_them(system: System) -> None:
    assert system
    for _ in range(3):
        name = f"limit-{unique()}"
        makers = (asyncio.to_thread(ensure_limit, name) for _ in range(6))
        assert await asyncio.gather(*makers) == [name] * 6
