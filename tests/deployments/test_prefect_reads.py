"""What Prefect's server needs in order to read, where `up` starts it."""

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import pendulum
import pytest
from prefect._internal.schemas import validators
from prefect.server.database import PrefectDBInterface, configurations, provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.types import DateTime
from pydantic import TypeAdapter
from sqlalchemy import JSON, literal, select, text

from deployments import prefect_reads
from deployments.prefect_reads import create_db, read_fast

# In a process of its own: what is replaced there is so for as long as the process lives.
ASK = """
from prefect.server.database.orm_models import BlockDocument, Deployment, FlowRun
from sqlalchemy import select
from deployments.prefect_reads import read_together
read_together()
for table in (FlowRun, Deployment, BlockDocument):
    print(" ".join(str(select(table)).split("FROM")[1].split()))
"""


# A run is read as each change of its state does, and two as for a list; told are the statements.
READ = """
import asyncio, sys
from prefect.server.database import orm_models as tables, provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.server.models import flow_runs
from sqlalchemy import event
from sqlalchemy.schema import CreateTable
from deployments import prefect_reads

async def read():
    engine = await provide_database_interface().engine()
    async with engine.begin() as connection:
        for table in tables.Base.metadata.sorted_tables:
            await connection.execute(CreateTable(table))
    async with await provide_database_interface().session() as session, session.begin():
        flow = tables.Flow(name="a flow")
        pool = tables.WorkPool(name="a pool", type="warm")
        session.add_all([flow, pool])
        await session.flush()
        queue = tables.WorkQueue(name="a queue", work_pool_id=pool.id, priority=1)
        session.add(queue)
        await session.flush()
        for name in "ab":
            run = tables.FlowRun(name=name, flow_id=flow.id, work_queue_id=queue.id, labels={})
            session.add(run)
            await session.flush()
            run.set_state(tables.FlowRunState(flow_run_id=run.id, type="PENDING", name="Pending"))
        await session.flush()
        run_id = run.id
    async with await provide_database_interface().session() as session:
        told = lambda _, __, statement, *more: print(statement.split()[0])
        event.listen(engine.sync_engine, "before_cursor_execute", told)
        run = await flow_runs.read_flow_run(session, run_id)
        print(run.state.name, run.work_queue.work_pool.name)
    async with await provide_database_interface().session() as session:
        for run in await flow_runs.read_flow_runs(session):
            print(run.state.name, run.work_queue.work_pool.name)
    await engine.dispose()

getattr(prefect_reads, sys.argv[2])()
with temporary_database_config(AioSqliteConfiguration(f"sqlite+aiosqlite:///{sys.argv[1]}")):
    asyncio.run(read())
"""


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pendulum.DateTime.__dict__["instance"]
    monkeypatch.setattr(pendulum.DateTime, "instance", before)  # and back again
    monkeypatch.setattr(configurations, "create_async_engine", None)
    monkeypatch.setattr(validators, "get_timezones", validators.get_timezones)  # type: ignore[attr-defined]
    read_fast()


def test_a_run_is_read_with_what_belongs_to_it() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK], check=True, capture_output=True, text=True
    ).stdout
    run, deployment, block = asked.splitlines()
    for table in ("flow_run_state", "work_queue", "work_pool"):
        assert f"LEFT OUTER JOIN {table} " in run
    assert "LEFT OUTER JOIN work_queue " in deployment
    assert "LEFT OUTER JOIN block_schema " in block


@pytest.mark.parametrize(
    ("prepare", "alone"),
    [("read_together", 1), ("read_lists_together", 4)],
    ids=["SQLite", "PostgreSQL"],
)
def test_the_pool_of_a_run_is_read_with_it_and_that_of_a_list_once(
    tmp_path: Path, prepare: str, alone: int
) -> None:
    command = [sys.executable, "-c", READ, str(tmp_path / "prefect.db"), prepare]
    asked = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told = [line for line in asked.splitlines() if line != "BEGIN"]
    run, asks = "Pending a pool", "SELECT"
    assert told == [*[asks] * alone, run, asks, asks, run, run]


@pytest.mark.usefixtures("fast")
def test_the_time_zones_of_the_world_are_looked_for_once() -> None:
    zones = validators.get_timezones()  # type: ignore[attr-defined]
    assert "Europe/Berlin" in zones
    assert validators.get_timezones() is zones  # type: ignore[attr-defined]


_TIMES = [
    datetime.fromisoformat(f"{time}{offset}").replace(fold=fold)
    for time in ("2024-02-29T23:59:59.999999", "2025-10-26T02:30:00")
    for offset in ("", "+00:00", "+05:30")
    for fold in (0, 1)
]
_ZONES = [
    time.replace(tzinfo=ZoneInfo(zone)) for time in _TIMES for zone in ("UTC", "Europe/Berlin")
]


def _read() -> list[str]:
    """All that is seen of the times as Prefect's models have them."""
    seen = []
    for given in _TIMES + _ZONES:
        for read in (DateTime.instance(given), TypeAdapter(DateTime).validate_python(given)):
            again = DateTime.instance(read)
            seen += [repr(read), repr(again), read.fold, read.isoformat(), read.add(months=1)]
    return [str(one) for one in seen]


def test_a_time_is_read_as_it_was_before(request: pytest.FixtureRequest) -> None:
    before = _read()
    request.getfixturevalue("fast")
    assert _read() == before


@pytest.mark.usefixtures("fast")
async def test_json_is_read_by_orjson() -> None:
    engine = configurations.create_async_engine("sqlite+aiosqlite://")  # type: ignore[attr-defined]
    async with engine.connect() as connection:
        told = await connection.scalar(select(literal({"a": ["ü", 1.5, None]}, JSON)))
    await engine.dispose()
    assert told == {"a": ["ü", 1.5, None]}
    assert engine.dialect._json_deserializer is orjson.loads  # type: ignore[attr-defined]


@pytest.fixture
async def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PrefectDBInterface]:
    """A database in which Prefect makes its table of runs, with its own indexes."""

    async def migrate(self: PrefectDBInterface) -> None:
        async with (await self.engine()).begin() as connection:
            create = self.FlowRun.__table__.create  # type: ignore[attr-defined]
            await connection.run_sync(create, checkfirst=True)

    monkeypatch.setattr(prefect_reads, "_create_db", migrate)
    template = partial(prefect_reads.copied_or_kept, template=tmp_path / "template.db")
    monkeypatch.setattr(prefect_reads, "copied_or_kept", template)
    url = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    with temporary_database_config(AioSqliteConfiguration(url)):
        yield provide_database_interface()


async def test_runs_of_a_day_are_counted_by_their_state_in_an_index(
    db: PrefectDBInterface,
) -> None:
    for _ in range(2):  # at each start
        await create_db(db)
    count = (
        "EXPLAIN QUERY PLAN SELECT count(*) FROM flow_run WHERE state_type IN ('COMPLETED')"
        " AND expected_start_time <= '2026-01-02' AND expected_start_time >= '2026-01-01'"
    )
    async with (await db.engine()).connect() as connection:
        (plan,) = (await connection.execute(text(count))).all()
    assert "COVERING INDEX samebits_flow_run__state_type_expected_start_time" in plan.detail
