"""What `doctor` says of each part of the system, and from when on something is wrong."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum


class Verdict(StrEnum):
    """How a part stands."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What was found of one part: how it stands, and what to do next if that is not ok."""

    what: str
    verdict: Verdict
    said: str
    hint: str = ""


def ok(what: str, said: str) -> Finding:
    """All is well."""
    return Finding(what, Verdict.OK, said)


def warning(what: str, said: str, hint: str) -> Finding:
    """Runs go on, though not as well as they should."""
    return Finding(what, Verdict.WARNING, said, hint)


def failed(what: str, said: str, hint: str) -> Finding:
    """Some run cannot pass, or nobody would be told of it."""
    return Finding(what, Verdict.FAILED, said, hint)


def skipped(what: str, before: str) -> Finding:
    """Not looked at, because `before` failed."""
    return Finding(what, Verdict.SKIPPED, f"not looked at: {before} comes first")


# -- rules ------------------------------------------------------------------------------------

SILENT_SECONDS = 75.0
"""A worker sends a heartbeat every 10 s; after so long without one it is taken for dead"""
WAITING_SECONDS = 120.0
"""A delivery becomes a run within a second, or as soon as Prefect is back"""
SKEW_SECONDS = 30.0
_LOOKS = 3
_QUEUED = timedelta(minutes=30)
_STUCK = {
    "PENDING": timedelta(minutes=5),
    "CANCELLING": timedelta(minutes=2),
    "RUNNING": timedelta(hours=6),
}


def age(of: datetime, now: datetime) -> str:
    """How long ago something was, for a person."""
    return lasting((now - of).total_seconds())


def lasting(seconds: float) -> str:
    """A length of time, for a person: 12 s, 3 min, 2 h, 5 days."""
    seconds = max(seconds, 0)
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86_400:.0f} days"


def is_silent(last_heartbeat: datetime | None, now: datetime) -> bool:
    """Whether a worker is taken for dead."""
    return last_heartbeat is None or (now - last_heartbeat).total_seconds() > SILENT_SECONDS


def is_overdue(last_look: datetime, every_seconds: float, now: datetime) -> bool:
    """Whether git should have been asked again long ago: three intervals are over."""
    return (now - last_look).total_seconds() > _LOOKS * every_seconds


def skew_seconds(date: str, before: datetime, after: datetime) -> float | None:
    """How far the clock of this host is ahead of a server's, in seconds; None for no clear date.

    `date` is the Date header of an answer to a request that lasted from `before` to `after`. It has
    whole seconds, and any moment in between may be meant: what these explain counts as none.
    """
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    if before > theirs + timedelta(seconds=1):
        return (before - theirs).total_seconds() - 1
    return min((after - theirs).total_seconds(), 0.0)


def is_stuck(state: str, since: datetime, now: datetime) -> bool:
    """Whether a run has been in a state (Prefect's type, e.g. PENDING) for longer than it may."""
    limit = _STUCK.get(state)
    return limit is not None and now - since > limit


def is_queued_for_long(wanted: datetime, now: datetime) -> bool:
    """Whether a run that was to start at `wanted` has waited for a worker for long."""
    return now - wanted > _QUEUED
