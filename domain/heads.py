"""What a look at a branch's head calls for.

Known is where each branch was seen last; the deliveries say which commits have come for it, and
which of them have a run. Their numbers are the order in which they came; clocks play no part.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from domain.commit import ANY_BRANCH
from domain.routing import Target

_RECENT = timedelta(days=1)


@dataclass(frozen=True)
class Known:
    """The head of a branch as it was seen last."""

    sha: str
    has_run: bool
    """False for one that was only noted: it was there before, and asked for no run"""
    mark: int
    """Number of the last delivery that had come before git was asked"""


UNKNOWN = Known("", has_run=False, mark=0)


@dataclass(frozen=True)
class Arrival:
    """A delivery of a commit to one branch. `state` is `waiting`, `dispatched` or `ignored`."""

    number: int
    sha: str
    state: str
    run_id: str = ""
    repeated: bool = False
    """Whether its commit had a run on this branch already"""


class Call(Enum):
    """What a head calls for."""

    NOTHING = auto()
    """It is known, and has its run"""
    WAIT = auto()
    """Its delivery is still to become a run"""
    RUN = auto()
    """No delivery of it started a run"""
    NOTE = auto()
    """It has its run, and is to be known from now on"""
    FOLLOW = auto()
    """The branch was pushed back to it: it has an earlier run, and no other will come"""
    FOLLOW_UNLESS_OLDER = auto()
    """The same, but for those of the others that are in its history: they only came late"""


@dataclass(frozen=True)
class Finding:
    """What a head calls for; for FOLLOW: its run, and the commits that it takes the place of."""

    call: Call
    run_id: str = ""
    others: tuple[str, ...] = ()


def is_asked(sha: str, known: Known, to: Target | None) -> bool:
    """Whether a head has to be looked at closely.

    That of a branch with a deployment of its own always: others may have come and gone in between.
    """
    if to is None:
        return False
    return to.branch != ANY_BRANCH or sha != known.sha


def judge(sha: str, known: Known, arrivals: Iterable[Arrival], mark: int) -> Finding:
    """What the head `sha` of a branch calls for.

    `mark` is the number of the last delivery that had come before git was asked: what came later
    may be newer than git's answer.
    """
    all_ = list(arrivals)
    done = [a for a in all_ if a.sha == sha and a.state == "dispatched"]
    run_id = done[-1].run_id if done else ""
    is_new = sha != known.sha or not known.has_run
    since = known.mark
    if is_new:
        mine = [a for a in all_ if a.sha == sha and a.number > known.mark]
        if any(a.state == "waiting" for a in mine):
            return Finding(Call.WAIT)
        done = [a for a in mine if a.state == "dispatched"]
        if not done:
            return Finding(Call.RUN)
        started = [a.number for a in done if not a.repeated]
        if not started and known.sha not in ("", sha):
            return Finding(Call.FOLLOW, run_id, (known.sha,))
        since = max(started, default=done[-1].number)
    others = tuple(
        a.sha
        for a in all_
        if a.sha != sha and a.state == "dispatched" and not a.repeated and since < a.number <= mark
    )
    if others:
        return Finding(Call.FOLLOW_UNLESS_OLDER, run_id, others)
    return Finding(Call.NOTE if is_new else Call.NOTHING, run_id)


def only_noted(known: Known, to: Target, *, first: bool) -> bool:
    """Whether an old head asks for no run: at the first look at a repository, on a branch without
    a deployment of its own. A team that connects 500 old branches must not get 500 runs.
    """
    return first and to.branch == ANY_BRANCH and known == UNKNOWN


def is_recent(committed: str, now: datetime) -> bool:
    """Whether a commit's own time (ISO 8601) is within the last day."""
    return datetime.fromisoformat(committed) > now - _RECENT


def is_forgotten(branch: str, heads: Iterable[str], to: Target | None) -> bool:
    """Whether a known branch that is gone from git is to be forgotten.

    One that leads to a stack is not: it may come back elsewhere, and the stack is to follow.
    """
    return branch not in heads and (to is None or to.stack is None)
