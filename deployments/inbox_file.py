"""The file of the inbox: SQLite, written durably (WAL, synchronous=FULL)."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domain.errors import DiskFull
from domain.names import one_line

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    received REAL NOT NULL,
    event TEXT NOT NULL,
    repository TEXT NOT NULL,
    branch TEXT NOT NULL,
    sha TEXT NOT NULL,
    subject TEXT NOT NULL,
    author TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    run_id TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting ON deliveries (number) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS of_branch ON deliveries (repository, branch, number);
CREATE TABLE IF NOT EXISTS told (
    run_id TEXT PRIMARY KEY,
    reference TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    ended INTEGER NOT NULL,
    changed REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS told_endings (
    run_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    how TEXT NOT NULL,
    told REAL NOT NULL,
    PRIMARY KEY (run_id, attempt, how)
);
CREATE TABLE IF NOT EXISTS heads (
    repository TEXT NOT NULL,
    branch TEXT NOT NULL,
    sha TEXT NOT NULL,
    has_run INTEGER NOT NULL,
    mark INTEGER NOT NULL,
    PRIMARY KEY (repository, branch)
);
CREATE TABLE IF NOT EXISTS looks (repository TEXT PRIMARY KEY, at REAL NOT NULL);
"""


class InboxFile:
    """The file; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection; what is done with it is one transaction."""
        try:
            db = sqlite3.connect(self._path, timeout=30)
            try:
                db.execute("PRAGMA synchronous=FULL")
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.IntegrityError:
            raise  # a fault of the program, not of the file
        except sqlite3.DatabaseError as error:
            raise DiskFull(
                f"The inbox {self._path} cannot be written.",
                why=one_line(str(error), 200),
                hint="Free space, or mend the folder's permissions; GitHub shows the delivery as "
                "failed, and it can be redelivered there.",
            ) from error
