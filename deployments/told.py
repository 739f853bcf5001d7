"""What the channel was told of each run, in the inbox's file.

The table `told` holds each run's message; `told_endings` each end that was told with it, by run,
number of the try and how it ended.
"""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

from deployments.inbox_file import InboxFile
from domain.message import Ending

_LEAST_DAYS = 7.0
"""The announcer looks back for days: what it may still meet must not be told a second time."""


@dataclass(frozen=True)
class Told:
    """What the channel was last told of a run; no `reference`: nothing yet."""

    run_id: str
    reference: str = ""
    fingerprint: str = ""
    ended: bool = False


class ToldRuns(InboxFile):
    """The part of the inbox that remembers what was told."""

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

    def keep_told(self, told: Told, endings: Iterable[Ending] = ()) -> None:
        """Write down what the channel was told, and which ends of the run are in it."""
        with self._open() as db:
            db.execute(
                "INSERT INTO told VALUES (?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET "
                "reference = excluded.reference, fingerprint = excluded.fingerprint, "
                "ended = excluded.ended, changed = excluded.changed",
                (told.run_id, told.reference, told.fingerprint, int(told.ended), time.time()),
            )
            db.executemany(
                "INSERT INTO told_endings VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(told.run_id, end.attempt, str(end.how), time.time()) for end in endings],
            )

    def told_endings(self, run_id: str) -> list[tuple[int, str]]:
        """The ends of a run that were told, in the order of telling: number of the try, and how."""
        with self._open() as db:
            return list(
                db.execute(
                    "SELECT attempt, how FROM told_endings WHERE run_id = ? ORDER BY told, attempt",
                    (run_id,),
                )
            )

    def prune_told(self, days: float) -> int:
        """Forget the runs whose end was told so many days ago; returns how many those were."""
        before = time.time() - max(days, _LEAST_DAYS) * 86400
        with self._open() as db:
            done = db.execute("DELETE FROM told WHERE ended = 1 AND changed < ?", (before,))
            db.execute("DELETE FROM told_endings WHERE run_id NOT IN (SELECT run_id FROM told)")
            return done.rowcount


def expect_told(db: sqlite3.Connection, run_id: str) -> None:
    """Have a new run told, whatever happens before its first message."""
    db.execute(
        "INSERT INTO told VALUES (?, '', '', 0, ?) ON CONFLICT DO NOTHING", (run_id, time.time())
    )
