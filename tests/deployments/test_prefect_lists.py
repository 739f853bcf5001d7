"""The lists of runs are told as Prefect tells them, and of what is known less is read."""

from collections.abc import AsyncIterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.server.api.server import create_api_app
from prefect.server.database import orm_models as tables
from prefect.server.database import provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.server.models import flow_runs
from prefect.server.schemas.responses import FlowRunResponse
from prefect.server.schemas.states import StateType
from sqlalchemy import delete, event, update
from sqlalchemy.orm import selectinload
from sqlalchemy.schema import CreateTable

from deployments import prefect_lists, prefect_responses
from deployments.prefect_lists import read_lists_together
from deployments.prefect_responses import tell_of_ended_runs_once

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    before = FlowRunResponse.__dict__["model_validate"]
    monkeypatch.setattr(FlowRunResponse, "model_validate", before)  # and back again
    for name in ("selectinload", "read_flow_runs"):
        monkeypatch.setattr(flow_runs, name, getattr(flow_runs, name))
    monkeypatch.setattr(prefect_responses, "_kept", {})
    tell_of_ended_runs_once()
    read_lists_together()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Any]:
    """A database with two runs that have ended, and between them one that runs."""
    with temporary_database_config(AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/db")):
        db = provide_database_interface()
        engine = await db.engine()
        async with engine.begin() as connection:
            for table in tables.Base.metadata.sorted_tables:
                await connection.execute(CreateTable(table))
        async with db.session_context(begin_transaction=True) as session:
            pool = tables.WorkPool(name="a pool", type="warm")
            flow = tables.Flow(name="a flow")
            session.add_all([flow, pool])
            await session.flush()
            queue = tables.WorkQueue(name="a queue", work_pool_id=pool.id, priority=1)
            session.add(queue)
            await session.flush()
            kinds = (StateType.COMPLETED, StateType.RUNNING, StateType.FAILED)
            for number, kind in enumerate(kinds, 1):
                run = tables.FlowRun(
                    id=UUID(int=number),
                    name=f"run {number}",
                    flow_id=flow.id,
                    work_queue_id=queue.id,
                    labels={},
                    tags=["one"],
                    parameters={"n": number},
                    updated=LONG_AGO,
                )
                session.add(run)
                await session.flush()
                state = tables.FlowRunState(
                    flow_run_id=run.id, type=kind, name=kind.name.title(), message="so it is"
                )
                run.set_state(state)
        yield db
        await engine.dispose()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_api_app(ignore_cache=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://prefect") as client:
        yield client


@pytest.fixture
def ask(client: httpx.AsyncClient, database: Any) -> Any:
    async def ask(path: str = "filter", **how: Any) -> Any:
        return (await client.post(f"/flow_runs/{path}", json=how)).raise_for_status().json()

    return ask


@contextmanager
def prefects_own(monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(flow_runs, "selectinload", selectinload)
        patch.setattr(flow_runs, "read_flow_runs", prefect_lists._read)
        patch.setattr(FlowRunResponse, "model_validate", classmethod(prefect_responses._validate))
        yield


async def test_a_list_is_told_as_prefect_tells_it_the_first_time_and_later(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, how in (
        ("filter", {}),
        ("filter", {"limit": 2, "offset": 1, "sort": "NAME_DESC"}),
        ("paginate", {"limit": 2, "page": 2}),
    ):
        with prefects_own(monkeypatch):
            wanted = await ask(path, **how)
        told = [await ask(path, **how) for _ in range(3)]
        for one in (wanted, *told):  # these go on with each second
            for run in one if path == "filter" else one["results"]:
                if run["state_type"] == "RUNNING":
                    run["estimated_run_time"] = run["estimated_start_time_delta"] = None
        assert told == [wanted] * 3
    assert [run["name"] for run in await ask(sort="NAME_DESC")] == ["run 3", "run 2", "run 1"]


async def test_of_a_run_that_is_known_little_is_read(ask: Any, database: Any) -> None:
    asked = list[str]()
    engine = await database.engine()

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await ask()
    asked.clear()
    await ask()
    lines, queues, whole, *more = asked
    assert "parameters" not in lines
    assert "flow_run_state" not in lines
    assert "JOIN work_pool" in queues
    assert "JOIN flow_run_state" in whole
    assert not [statement for statement in more if "flow_run" in statement]


async def test_what_has_changed_is_read_again(
    ask: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask()
    changes = (
        update(tables.FlowRun).where(tables.FlowRun.id == UUID(int=1)).values(name="another"),
        update(tables.WorkQueue).values(name="another queue"),
        update(tables.WorkPool).values(name="another pool"),
        delete(tables.FlowRun).where(tables.FlowRun.id == UUID(int=3)),
    )
    before = await ask()
    for change in changes:
        async with database.session_context(begin_transaction=True) as session:
            await session.execute(change)
        with prefects_own(monkeypatch):
            wanted = await ask()
        told = await ask()
        assert [run["work_pool_name"] for run in told] == [run["work_pool_name"] for run in wanted]
        ended = [[run for run in one if run["state_type"] != "RUNNING"] for one in (told, wanted)]
        assert ended[0] == ended[1]
        assert told != before
        before = told


async def test_what_is_not_told_is_read_whole(ask: Any, database: Any) -> None:
    await ask()
    async with database.session_context() as session:
        runs = await flow_runs.read_flow_runs(session=session)
    assert [run.state.message for run in runs] == ["so it is"] * 3
    assert {run.parameters["n"] for run in runs} == {1, 2, 3}
