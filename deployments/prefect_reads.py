"""What Prefect's server needs in order to read from its database, whatever is read.

A run has a state, a queue and a pool, and Prefect asks its database for each of these by itself.
SQLite gives them in the same question. PostgreSQL cannot lock a row that is read in this way.

The UI counts the runs of a day by their state, for each open page every few seconds. For that
Prefect 3.8 has an index by state and one by time; with the first, which SQLite takes, all runs of
that state are looked at. One by both is made here, beside Prefect's own.

Each of a run's JSON columns and each of its times is read by Python, five of one and six of the
other for each line of a list: orjson reads JSON in less, and a time in UTC needs no conversion.
For each schedule that is read, the names of the world's time zones are looked for on the disk.

Source: https://docs.sqlalchemy.org/en/20/orm/queryguide/relationships.html#joined-eager-loading
"""

import sys
from functools import cache, partial
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from prefect._internal.schemas import validators
from prefect.server.database import PrefectDBInterface, configurations
from prefect.server.database import orm_models as tables
from prefect.server.models import flow_runs
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import joinedload

from deployments.prefect_lists import InList, read_lists_together
from deployments.prefect_template import copied_or_kept

_TOGETHER = (
    (tables.FlowRun, "_state"),
    (tables.FlowRun, "work_queue"),
    (tables.WorkQueue, "work_pool"),
    (tables.Deployment, "work_queue"),
    (tables.Deployment, "global_concurrency_limit"),
    (tables.BlockDocument, "block_type"),
    (tables.BlockDocument, "block_schema"),
    (tables.BlockSchema, "block_type"),
)
_INDEX = """CREATE INDEX IF NOT EXISTS samebits_flow_run__state_type_expected_start_time
    ON flow_run (state_type, expected_start_time)"""
_create_db = PrefectDBInterface.create_db


def read_together() -> None:
    """Have what belongs to any run, deployment or block read with it; before the first is."""
    read_lists_together()
    flow_runs.selectinload = _Together  # type: ignore[attr-defined, assignment]
    for table, name in _TOGETHER:
        relation: Any = table.__mapper__.get_property(name)
        relation.lazy, relation.strategy_key = "joined", (("lazy", "joined"),)


class _Together(InList):
    """The same as in a list, and a single run is read with its queue and pool in one question."""

    alone = staticmethod(joinedload)


def read_fast() -> None:
    """Have JSON and times read in less; before the first connection to a database."""
    connect = partial(create_async_engine, json_deserializer=orjson.loads)
    configurations.create_async_engine = connect  # type: ignore[attr-defined]
    validators.get_timezones = cache(validators.get_timezones)  # type: ignore[attr-defined]
    if sys.version_info < (3, 13):  # since then, Prefect's times are Python's own
        _take_utc_as_it_is()


def _take_utc_as_it_is() -> None:
    from pendulum import UTC, DateTime

    convert = DateTime.instance.__func__  # type: ignore[attr-defined]
    utc = (ZoneInfo("UTC"), UTC)

    def instance(cls: type[DateTime], of: DateTime, tz: Any = UTC) -> DateTime:
        if of.tzinfo not in utc:
            return convert(cls, of, tz)  # type: ignore[no-any-return]
        time = (of.hour, of.minute, of.second, of.microsecond)
        return cls(of.year, of.month, of.day, *time, tzinfo=UTC, fold=of.fold)

    DateTime.instance = classmethod(instance)  # type: ignore[method-assign, assignment]


async def create_db(self: PrefectDBInterface) -> None:
    """As Prefect's, but from a copy where it is new; and make the index by which the UI counts."""
    with copied_or_kept(self.database_config.connection_url):
        await _create_db(self)
    async with (await self.engine()).begin() as connection:
        await connection.execute(text(_INDEX))
