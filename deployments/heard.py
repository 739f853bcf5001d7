"""When something was last heard of a repository, as the inbox's file tells."""

from datetime import UTC, datetime

from deployments.inbox_file import InboxFile

_FOUND = "look:%"
"""The ids of deliveries that the reconciler has made of what git has"""


class Heard(InboxFile):
    """The part of the inbox that `doctor` asks."""

    def waiting_since(self) -> datetime | None:
        """When the oldest delivery came that has no run yet; None where none waits."""
        return self._time("SELECT min(received) FROM deliveries WHERE state = 'waiting'")

    def last_delivery(self, repository: str) -> datetime | None:
        """When a webhook last told of a repository; None for never, or long ago."""
        return self._time(
            "SELECT max(received) FROM deliveries WHERE repository = ? AND id NOT LIKE ?",
            repository,
            _FOUND,
        )

    def last_found(self, repository: str) -> datetime | None:
        """When a push of a repository was last found in git, of which no webhook had told."""
        return self._time(
            "SELECT max(received) FROM deliveries WHERE repository = ? AND id LIKE ?",
            repository,
            _FOUND,
        )

    def _time(self, query: str, *values: str) -> datetime | None:
        with self._open() as db:
            (seconds,) = db.execute(query, values).fetchone()
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
