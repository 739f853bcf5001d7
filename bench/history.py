"""How cost grows with the number of finished runs, on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import os
import statistics
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, MetaData, Table, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from bench.project import Project, project
from bench.pushes import Repository
from bench.start_page import start_page
from deployments.settings import SystemSettings

RUNS = (10, 1_000, 20_000)
_PUSHES = 7
_AT_ONCE = 500
_DAYS = 30
_TABLES = ("flow_run", "flow_run_state", "task_run", "task_run_state")
Row = dict[str, Any]
Say = Callable[[str], None]


def grow(folder: Path, settings_in: Callable[[Path], SystemSettings], say: Say) -> dict[str, Any]:
    """Of each database and number of runs: first step and start page, in seconds (medians)."""
    report: dict[str, Any] = {}
    for name, database in (("SQLite", _sqlite), ("PostgreSQL", _postgres)):
        place = folder / name
        place.mkdir()
        settings = settings_in(place)
        with database(settings, place) as url, project(settings, place) as system:
            system.wait_until_up()  # till then it lays hooks into its repository, which push, too
            report[name] = _grown(system, url, Repository(system.repository, place / "work"), say)
    return report


def _grown(system: Project, url: str, repository: Repository, say: Say) -> dict[str, Any]:
    for _ in range(RUNS[0]):
        system.pipeline(repository)
    found, there = {}, RUNS[0]
    for runs in RUNS:
        asyncio.run(copy_runs(url, runs - there))
        there = runs
        first = statistics.median(system.first_step(repository) for _ in range(_PUSHES))
        page = statistics.median(start_page(system.settings) for _ in range(_PUSHES))
        found[str(runs)] = {"first_step_s": round(first, 3), "start_page_s": round(page, 3)}
        say(f"  {url.partition(':')[0]}, {runs} runs: first step {first:.2f} s, page {page:.2f} s")
    return found


# -- finished runs ----------------------------------------------------------------------------


async def copy_runs(url: str, number: int) -> None:
    """Copy the last finished run so often, spread over the days before it.

    PostgreSQL counts and tidies by itself in the minutes after such a change, and writes it where
    it stays; here it does so at once, before anything is measured. SQLite has no such thing.
    """
    engine, metadata = create_async_engine(url), MetaData()
    async with engine.connect() as connection:
        with warnings.catch_warnings(action="ignore"):  # of indexes, which are not looked at
            await connection.run_sync(metadata.reflect, only=_TABLES)
    for begin in range(0, number, _AT_ONCE):
        end = min(begin + _AT_ONCE, number)
        async with engine.begin() as connection:
            await connection.run_sync(_copy, metadata, range(begin, end), number)
    if engine.dialect.name == "postgresql":
        async with engine.connect() as connection:
            at_once = await connection.execution_options(isolation_level="AUTOCOMMIT")
            for task in ("VACUUM (ANALYZE)", "CHECKPOINT"):
                await at_once.execute(text(task))
    await engine.dispose()


def _copy(connection: Connection, metadata: MetaData, numbers: range, number: int) -> None:
    runs, states, steps, step_states = (metadata.tables[name] for name in _TABLES)
    done = select(runs).where(runs.c.state_type == "COMPLETED").order_by(runs.c.created.desc())
    run = dict(connection.execute(done.limit(1)).mappings().one())
    its_states = _rows(connection, states, states.c.flow_run_id == run["id"])
    its_steps = _rows(connection, steps, steps.c.flow_run_id == run["id"])
    of_steps = step_states.c.task_run_id.in_([step["id"] for step in its_steps])
    its_step_states = _rows(connection, step_states, of_steps)
    made: dict[Table, list[Row]] = {table: [] for table in (runs, states, steps, step_states)}
    for n in numbers:
        ago = timedelta(days=_DAYS) * (n + 1) / number
        ids: dict[Any, Any] = {}
        for table, rows in (
            (runs, [run]),
            (states, its_states),
            (steps, its_steps),
            (step_states, its_step_states),
        ):
            made[table] += [_copied(row, ids, ago) for row in rows]
    for table, rows in made.items():
        # A run names its state, which names the run: the name of the state comes last.
        connection.execute(table.insert(), [{**row, **_nameless(table)} for row in rows])
    for table in (runs, steps):
        for row in made[table]:
            named = update(table).where(table.c.id == row["id"])
            connection.execute(named.values(state_id=row["state_id"]))


def _rows(connection: Connection, table: Table, wanted: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(select(table).where(wanted)).mappings()]


def _nameless(table: Table) -> Row:
    return {"state_id": None} if "state_id" in table.c else {}


def _copied(row: Row, ids: dict[Any, Any], ago: timedelta) -> Row:
    """A row with other IDs, of its own and of what it names in the same run, and earlier times."""
    made = {}
    for name, value in row.items():
        if name in ("id", "state_id", "flow_run_id", "task_run_id") and value is not None:
            made[name] = ids.setdefault(value, type(value)(str(uuid4())))
        elif hasattr(value, "tzinfo"):
            made[name] = value - ago
        elif name in ("idempotency_key", "dynamic_key"):
            made[name] = value and f"{value} {ago}"
        else:
            made[name] = value
    return made


# -- databases --------------------------------------------------------------------------------


@contextlib.contextmanager
def _sqlite(settings: SystemSettings, _: Path) -> Iterator[str]:
    yield f"sqlite+aiosqlite:///{settings.home}/prefect/prefect.db"


@contextlib.contextmanager
def _postgres(settings: SystemSettings, _: Path) -> Iterator[str]:
    """A PostgreSQL of its own, which the system is told of; as root it runs as `postgres`."""
    program = max(Path("/usr/lib/postgresql").glob("*/bin"))
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    port = settings.prod_port + 1
    with tempfile.TemporaryDirectory(prefix="bench-postgres-") as data:
        if user:
            subprocess.run(["chown", "postgres", data], check=True)

        def run(name: str, *arguments: str) -> None:
            argv = [*user, str(program / name), "-D", f"{data}/data", *arguments]
            subprocess.run(argv, check=True, capture_output=True, cwd="/")

        run("initdb", "-A", "trust", "-U", "prefect")
        run("pg_ctl", "-w", "-o", f"-p {port} -k {data} -h 127.0.0.1", "-l", f"{data}/log", "start")
        url = f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = url
        try:
            yield url
        finally:
            del os.environ["PREFECT_API_DATABASE_CONNECTION_URL"]
            run("pg_ctl", "-w", "-m", "fast", "stop")
