"""Prefect's server on one host: writes wait for each other, and nothing is done again and again.

On SQLite, Prefect 3.8 begins most transactions deferred: one that has read, and then writes while
another has written, is refused at once (503), and its client comes again after two seconds. Begun
as writing ones, they take turns, for milliseconds. On PostgreSQL this changes nothing.

For each run that it creates, Prefect checks whether the schemas of its parameters and of its job
variables are schemas, half of what a creation costs. They are those of the deployment and of
the work pool: one that was right before is right again. Values are always validated.

Each state of a step is written by itself, in six statements: what comes within a moment is written
together. Events go into SQLite as they go into PostgreSQL, in half the time: a statement with all
rows in it is made anew each time. With each look of a worker, two jobs of its job queue write down
when it was; they do so every few seconds, which Prefect compares with a minute.

Source: https://www.sqlite.org/lang_transaction.html#deferred_immediate_and_exclusive_transactions

usage: python -m deployments.prefect_server --host HOST --port PORT
"""

import gc
import json
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any

from docket import Docket, Worker
from fastapi import FastAPI
from prefect.cli import app
from prefect.server.api import background_workers
from prefect.server.database import PrefectDBInterface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.events.storage import database as events
from prefect.server.models.deployments import mark_deployments_ready
from prefect.server.models.work_queues import mark_work_queues_ready
from prefect.server.services import task_run_recorder
from prefect.server.utilities.database import get_dialect
from prefect.server.utilities.messaging import MessageHandler
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from prefect.utilities.schema_tools import validation
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from deployments.prefect_lists import read_lists_together
from deployments.prefect_reads import create_db, read_fast, read_together
from deployments.prefect_requests import answer_at_once, compress_quickly, middleware
from deployments.prefect_responses import tell_of_ended_runs_once

_begin = AioSqliteConfiguration.begin_transaction
_VALIDATOR = validation._VALIDATOR  # noqa: SLF001 - it has no other place
_check, _FORMATS = _VALIDATOR.check_schema, _VALIDATOR.FORMAT_CHECKER
_MOST_SCHEMAS = 200
_record = task_run_recorder.consumer
_MOST_STATES, _MOMENT_SECONDS = 100, 0.05
_RETURNING_SINCE = (3, 35)
_add = Docket.add
_LOOKS = (mark_work_queues_ready, mark_deployments_ready)
_LATELY_SECONDS = 10.0
_put_down: dict[str, float] = {}
"""When the looks at a pool were, by the key of the job"""
_JOBS_SECONDS = timedelta(seconds=1)
"""How often it looks for jobs that are due; Prefect's come every 5 s or less often"""


def _begin_writing(
    self: AioSqliteConfiguration,
    session: AsyncSession,
    with_for_update: bool = True,  # noqa: ARG001, FBT001, FBT002 - Prefect's signature
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    return _begin(self, session, with_for_update=True)


@lru_cache(_MOST_SCHEMAS)
def _checked(schema: str, *, formats: bool) -> None:
    _check(json.loads(schema), **({"format_checker": _FORMATS} if formats else {}))


def _check_once(schema: Any, format_checker: object = None) -> None:
    """Raise SchemaError for what is no schema, as jsonschema's `check_schema` does."""
    _checked(json.dumps(schema, sort_keys=True), formats=format_checker is not None)


def _record_together(
    write_batch_size: int, flush_every: int, **how: Any
) -> AbstractAsyncContextManager[MessageHandler]:
    """Prefect's own writer of the states of steps, which it can have write once a second only.

    Where the user has set how many are written together, that is done.
    """
    if write_batch_size > 1:
        return _record(write_batch_size, flush_every, **how)
    return _record(_MOST_STATES, _MOMENT_SECONDS, **how)  # type: ignore[arg-type]


def _add_unless_lately(
    self: Docket, job: Any, when: datetime | None = None, key: str | None = None
) -> Callable[..., Awaitable[Any]]:
    """As `Docket.add`; that a pool was looked at is not put down again within a few seconds."""
    add = _add(self, job, when, key)
    if key is None or job not in _LOOKS or ":work_pool:" not in key:
        return add

    async def add_unless_lately(**given: Any) -> Any:
        lately = key in _put_down and time.monotonic() < _put_down[key] + _LATELY_SECONDS
        # A queue that had been given up is ready again at once.
        if lately and not given.get("ready_work_queue_ids"):
            return None
        placed = await add(**given)
        _put_down[key] = time.monotonic()
        return placed

    return add_unless_lately


if __name__ == "__main__":
    # Each answer makes thousands of objects: looking for cycles each 700 of them takes 8 %.
    gc.set_threshold(20_000, 10, 20)
    _VALIDATOR.check_schema = _check_once
    AioSqliteConfiguration.begin_transaction = _begin_writing  # type: ignore[method-assign, assignment]
    FastAPI.middleware = middleware  # type: ignore[method-assign, assignment]
    PrefectDBInterface.create_db = create_db  # type: ignore[method-assign]
    answer_at_once()
    compress_quickly()
    tell_of_ended_runs_once()
    read_fast()
    on_sqlite = get_dialect(PREFECT_API_DATABASE_CONNECTION_URL.value()).name == "sqlite"
    (read_together if on_sqlite else read_lists_together)()
    task_run_recorder.consumer = _record_together  # type: ignore[assignment]
    if sqlite3.sqlite_version_info >= _RETURNING_SINCE:
        events._write_sqlite_events = events._write_postgres_events  # noqa: SLF001
    Docket.add = _add_unless_lately  # type: ignore[method-assign, assignment]
    background_workers.Worker = partial(  # type: ignore[attr-defined, assignment]
        Worker, minimum_check_interval=_JOBS_SECONDS, scheduling_resolution=_JOBS_SECONDS
    )
    sys.argv[1:1] = ["server", "start"]
    app()
