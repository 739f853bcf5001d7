"""Prefect's server on one host, where writes wait for each other instead of failing.

On SQLite, Prefect 3.8 begins most transactions deferred: one that has read, and then writes while
another has written, is refused at once (503), and its client comes again after two seconds. Begun
as writing ones, they take turns, for milliseconds. On PostgreSQL nothing is changed.

Source: https://www.sqlite.org/lang_transaction.html#deferred_immediate_and_exclusive_transactions

usage: python -m deployments.prefect_server --host HOST --port PORT
"""

import sys
from contextlib import AbstractAsyncContextManager

from prefect.cli import app
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_begin = AioSqliteConfiguration.begin_transaction


def _begin_writing(
    self: AioSqliteConfiguration,
    session: AsyncSession,
    with_for_update: bool = True,  # noqa: ARG001, FBT001, FBT002 - Prefect's signature
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    return _begin(self, session, with_for_update=True)


if __name__ == "__main__":
    AioSqliteConfiguration.begin_transaction = _begin_writing  # type: ignore[method-assign, assignment]
    sys.argv[1:1] = ["server", "start"]
    app()
