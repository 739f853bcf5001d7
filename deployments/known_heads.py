"""Which heads of the branches are known, in the inbox's file."""

import time
from collections.abc import Iterable, Mapping

from deployments.inbox_file import InboxFile
from domain.heads import Known


class KnownHeads(InboxFile):
    """The part of the inbox that remembers what git was last seen to have."""

    def heads(self, repository: str) -> dict[str, Known]:
        """The known heads of a repository, by branch."""
        with self._open() as db:
            rows = db.execute(
                "SELECT branch, sha, has_run, mark FROM heads WHERE repository = ?", (repository,)
            ).fetchall()
        return {branch: Known(sha, bool(has_run), mark) for branch, sha, has_run, mark in rows}

    def head(self, repository: str, branch: str) -> str:
        """The commit that a branch was last known to be at; empty for none."""
        known = self.heads(repository).get(branch)
        return known.sha if known else ""

    def last_look(self, repository: str) -> float | None:
        """When git was last asked for a repository's heads with success, in seconds; or never."""
        with self._open() as db:
            row = db.execute("SELECT at FROM looks WHERE repository = ?", (repository,)).fetchone()
        return float(row[0]) if row else None

    def note_look(
        self, repository: str, heads: Mapping[str, Known], gone: Iterable[str] = ()
    ) -> None:
        """Write down what a look at a repository has found, all of it or nothing."""
        with self._open() as db:
            db.executemany(
                "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (repository, branch) "
                "DO UPDATE SET sha = excluded.sha, has_run = excluded.has_run, "
                "mark = excluded.mark",
                [(repository, b, k.sha, int(k.has_run), k.mark) for b, k in heads.items()],
            )
            db.executemany(
                "DELETE FROM heads WHERE repository = ? AND branch = ?",
                [(repository, branch) for branch in gone],
            )
            db.execute(
                "INSERT INTO looks VALUES (?, ?) ON CONFLICT (repository) "
                "DO UPDATE SET at = excluded.at",
                (repository, time.time()),
            )
