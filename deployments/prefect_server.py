"""Prefect's server on one host: writes wait for each other, and no schema is checked twice.

On SQLite, Prefect 3.8 begins most transactions deferred: one that has read, and then writes while
another has written, is refused at once (503), and its client comes again after two seconds. Begun
as writing ones, they take turns, for milliseconds. On PostgreSQL this changes nothing.

For each run that it creates, Prefect checks whether the schemas of its parameters and of its job
variables are schemas, half of what a creation costs. They are those of the deployment and of
the work pool: one that was right before is right again. Values are always validated.

Source: https://www.sqlite.org/lang_transaction.html#deferred_immediate_and_exclusive_transactions

usage: python -m deployments.prefect_server --host HOST --port PORT
"""

import gc
import json
import sys
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any

from prefect.cli import app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.utilities.schema_tools import validation
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_begin = AioSqliteConfiguration.begin_transaction
_VALIDATOR = validation._VALIDATOR  # noqa: SLF001 - it has no other place
_check, _FORMATS = _VALIDATOR.check_schema, _VALIDATOR.FORMAT_CHECKER
_MOST_SCHEMAS = 200


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


if __name__ == "__main__":
    # Each answer makes thousands of objects: looking for cycles each 700 of them takes 8 %.
    gc.set_threshold(20_000, 10, 20)
    _VALIDATOR.check_schema = _check_once
    AioSqliteConfiguration.begin_transaction = _begin_writing  # type: ignore[method-assign, assignment]
    sys.argv[1:1] = ["server", "start"]
    app()
