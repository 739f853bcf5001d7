"""The inbox: what came from GitHub and what was told, in a SQLite file of its own.

A delivery is answered only after it lies here durably (WAL, synchronous=FULL).
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
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
"""


@dataclass(frozen=True)
class Delivery:
    """A delivery as it is kept. `state` is `waiting`, `dispatched` or `ignored`."""

    id: str
    event: str
    repository: str = ""
    branch: str = ""
    sha: str = ""
    subject: str = ""
    author: str = ""
    state: str = "waiting"
    reason: str = ""
    run_id: str = ""


# In the order of the fields of Delivery.
_COLUMNS = "id, event, repository, branch, sha, subject, author, state, reason, run_id"


@dataclass(frozen=True)
class Told:
    """What the channel was last told of a run; no `reference`: nothing yet."""

    run_id: str
    reference: str = ""
    fingerprint: str = ""
    ended: bool = False


class Inbox:
    """The file; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
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

    # -- deliveries ---------------------------------------------------------------------------

    def store(self, delivery: Delivery) -> bool:
        """Keep a delivery durably; False if this ID is here already.

        One that started nothing is looked at anew: somebody has mended why, and redelivers it.
        """
        with self._open() as db:
            stored = db.execute(
                f"INSERT INTO deliveries ({_COLUMNS}, received) "  # noqa: S608 - a constant
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "repository = excluded.repository, branch = excluded.branch, "
                "sha = excluded.sha, subject = excluded.subject, author = excluded.author, "
                "state = excluded.state, reason = excluded.reason WHERE state = 'ignored'",
                (*astuple(delivery), time.time()),
            )
            return stored.rowcount == 1

    def get(self, delivery_id: str) -> Delivery:
        """A delivery that is here."""
        (delivery,) = self._select("WHERE id = ?", delivery_id)
        return delivery

    def had_run(self, delivery: Delivery, run_id: str) -> bool:
        """Whether an earlier delivery started this run."""
        return bool(self._select("WHERE run_id = ? AND id != ? LIMIT 1", run_id, delivery.id))

    def count_waiting(self) -> int:
        """How many deliveries have no run yet."""
        with self._open() as db:
            row = db.execute("SELECT count(*) FROM deliveries WHERE state = 'waiting'").fetchone()
        return int(row[0])

    def waiting_since(self) -> datetime | None:
        """When the oldest delivery came that has no run yet; None where none waits."""
        return self._time("SELECT min(received) FROM deliveries WHERE state = 'waiting'")

    def last_delivery(self, repository: str) -> datetime | None:
        """When a webhook last told of a repository."""
        return self._time(
            "SELECT max(received) FROM deliveries WHERE repository = ? AND id NOT LIKE 'look:%'",
            repository,
        )

    def last_found(self, repository: str) -> datetime | None:
        """When the reconciler last found a push of a repository that had no run."""
        return self._time(
            "SELECT max(received) FROM deliveries WHERE repository = ? AND id LIKE 'look:%'",
            repository,
        )

    def _time(self, query: str, *values: object) -> datetime | None:
        with self._open() as db:
            (seconds,) = db.execute(query, values).fetchone()
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    def waiting(self, limit: int = 100) -> list[Delivery]:
        """The deliveries that have no run yet, oldest first."""
        return self._select("WHERE state = 'waiting' ORDER BY number LIMIT ?", limit)

    def latest(self, limit: int = 20) -> list[Delivery]:
        """The last deliveries, newest first."""
        return self._select("ORDER BY number DESC LIMIT ?", limit)

    def last_sha(self, repository: str, branch: str) -> str:
        """The commit of a branch's last delivery; empty for none. It may have come late."""
        with self._open() as db:
            row = db.execute(
                "SELECT sha FROM deliveries WHERE repository = ? AND branch = ? "
                "ORDER BY number DESC LIMIT 1",
                (repository, branch),
            ).fetchone()
        return str(row[0]) if row else ""

    def settle(self, delivery_id: str, state: str, reason: str = "", run_id: str = "") -> None:
        """Write down what became of a delivery."""
        with self._open() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, reason = ?, run_id = ? WHERE id = ?",
                (state, reason, run_id, delivery_id),
            )

    def _select(self, where: str, *values: object) -> list[Delivery]:
        with self._open() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM deliveries {where}",  # noqa: S608 - both are constants
                values,
            ).fetchall()
        return [Delivery(*row) for row in rows]

    # -- what was told ------------------------------------------------------------------------

    def told(self, run_id: str) -> Told | None:
        """What the channel was last told of a run."""
        with self._open() as db:
            row = db.execute(
                "SELECT run_id, reference, fingerprint, ended FROM told WHERE run_id = ?", (run_id,)
            ).fetchone()
        return Told(row[0], row[1], row[2], bool(row[3])) if row else None

    def not_ended(self) -> list[str]:
        """The runs of which no end was told yet."""
        with self._open() as db:
            return [row[0] for row in db.execute("SELECT run_id FROM told WHERE ended = 0")]

    def forget_told(self, run_id: str) -> None:
        """Expect no more news of a run."""
        with self._open() as db:
            db.execute("DELETE FROM told WHERE run_id = ?", (run_id,))

    def keep_told(self, told: Told) -> None:
        """Write down what the channel was told."""
        with self._open() as db:
            db.execute(
                "INSERT INTO told VALUES (?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET "
                "reference = excluded.reference, fingerprint = excluded.fingerprint, "
                "ended = excluded.ended, changed = excluded.changed",
                (told.run_id, told.reference, told.fingerprint, int(told.ended), time.time()),
            )
