"""The inbox: what came from GitHub, what git was seen to have, and what was told.

A delivery is answered only after it lies here durably.
"""

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from deployments.known_heads import KnownHeads
from deployments.told import Told, ToldRuns, expect_told
from domain.heads import Arrival

__all__ = ["HAS_RUN", "Delivery", "Inbox", "Told"]

HAS_RUN = "this commit has its run on this branch already: retry or redeploy it"
"""The reason of a dispatched delivery that started no run of its own."""


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
    number: int = field(default=0, compare=False)
    """Its place in the order of all that came; it has one once it is kept"""

    @property
    def once(self) -> str:
        """What calls it, and no later one of the same ID that comes after this one is forgotten."""
        return f"{self.number} {self.id}"


# In the order of the fields of Delivery; `number` comes after them.
_COLUMNS = "id, event, repository, branch, sha, subject, author, state, reason, run_id"


class Inbox(KnownHeads, ToldRuns):
    """The whole file; safe to use from several threads and processes."""

    def store(self, delivery: Delivery) -> bool:
        """Keep a delivery durably; False if this ID is here already.

        One that started nothing is looked at anew: somebody has mended why, and redelivers it.
        """
        ((new, _),) = self.store_all([delivery])
        return new

    def store_all(self, deliveries: Sequence[Delivery]) -> list[tuple[bool, Delivery]]:
        """Keep all of these, or none; returns for each whether it is new, and how it is kept."""
        with self._open() as db:
            return [(_store(db, delivery), _get(db, delivery.id)) for delivery in deliveries]

    def get(self, delivery_id: str) -> Delivery:
        """A delivery that is here."""
        with self._open() as db:
            return _get(db, delivery_id)

    def count_waiting(self) -> int:
        """How many deliveries have no run yet."""
        with self._open() as db:
            row = db.execute("SELECT count(*) FROM deliveries WHERE state = 'waiting'").fetchone()
        return int(row[0])

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

    def last_number(self) -> int:
        """How many deliveries have ever come; those that come later have higher numbers."""
        with self._open() as db:
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'").fetchone()
        return int(row[0]) if row else 0

    def arrivals(self, repository: str, branch: str) -> list[Arrival]:
        """The commits that have come for a branch, in the order in which they came."""
        with self._open() as db:
            rows = db.execute(
                "SELECT number, sha, state, reason, run_id FROM deliveries "
                "WHERE repository = ? AND branch = ? AND sha != '' ORDER BY number",
                (repository, branch),
            ).fetchall()
        return [
            Arrival(number, sha, state, run_id, repeated=reason == HAS_RUN)
            for number, sha, state, reason, run_id in rows
        ]

    def settle(self, delivery_id: str, state: str, reason: str = "", run_id: str = "") -> None:
        """Write down what became of a delivery."""
        with self._open() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, reason = ?, run_id = ? WHERE id = ?",
                (state, reason, run_id, delivery_id),
            )
            if run_id and not reason:
                expect_told(db, run_id)

    def prune(self, days: float) -> int:
        """Forget what has waited for nothing for so many days: settled deliveries, and runs whose
        end was told. Known heads stay. Returns how many rows were removed.
        """
        with self._open() as db:
            removed = db.execute(
                "DELETE FROM deliveries WHERE state != 'waiting' AND received < ?",
                (time.time() - days * 86400,),
            ).rowcount
        return removed + self.prune_told(days)

    def _select(self, where: str, *values: object) -> list[Delivery]:
        with self._open() as db:
            return _select(db, where, *values)


def _store(db: sqlite3.Connection, delivery: Delivery) -> bool:
    # It comes now, after all others, and not when it came for the first time.
    db.execute("DELETE FROM deliveries WHERE id = ? AND state = 'ignored'", (delivery.id,))
    stored = db.execute(
        f"INSERT INTO deliveries ({_COLUMNS}, received) "  # noqa: S608 - a constant
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (*astuple(delivery)[:-1], time.time()),
    )
    return stored.rowcount == 1


def _get(db: sqlite3.Connection, delivery_id: str) -> Delivery:
    (delivery,) = _select(db, "WHERE id = ?", delivery_id)
    return delivery


def _select(db: sqlite3.Connection, where: str, *values: object) -> list[Delivery]:
    rows = db.execute(
        f"SELECT {_COLUMNS}, number FROM deliveries {where}",  # noqa: S608 - both are constants
        values,
    ).fetchall()
    return [Delivery(*row) for row in rows]
