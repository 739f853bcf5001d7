"""One look at a repository: git's heads, against what is known and what has come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from blocks.repository import GitHubRepository
from deployments.inbox import Delivery, Inbox
from domain.commit import Commit
from domain.heads import (
    UNKNOWN,
    Call,
    Finding,
    Known,
    is_asked,
    is_forgotten,
    is_recent,
    judge,
    only_noted,
)
from domain.routing import Route, route

_ID = "look"


@dataclass(frozen=True)
class Move:
    """A branch was pushed back to a commit that has its run."""

    commit: Commit
    stack: str | None
    old: str
    """The commit that it was pushed back from"""
    run_id: str
    """The run that the commit has"""
    known: Known
    """What is known once this move is followed"""
    key: str
    """A name for this move, and for no other"""


@dataclass
class Look:
    """What a look has found, and has written down."""

    stored: list[Delivery] = field(default_factory=list)
    """Deliveries of heads that had none"""
    moves: list[Move] = field(default_factory=list)


def is_from_a_look(delivery: Delivery) -> bool:
    """Whether a delivery was found in git, and not sent by GitHub."""
    return delivery.id.startswith(f"{_ID}:")


def look_at(inbox: Inbox, name: str, source: GitHubRepository, routes: Sequence[Route]) -> Look:
    """Ask git for a repository's heads, and store a delivery for each that has no run.

    A head is noted as known once it has its run; so whatever ends this look, the next one finds the
    same. Raises what the room of git raises.
    """
    return _Looking(inbox, name, source, routes).look()


class _Looking:
    """The state of one look."""

    def __init__(
        self, inbox: Inbox, name: str, source: GitHubRepository, routes: Sequence[Route]
    ) -> None:
        self._inbox, self._name, self._source, self._routes = inbox, name, source, routes
        self._known = inbox.heads(name)
        self._first = inbox.last_look(name) is None
        # In this order: what comes from now on may be newer than git's answer.
        self._mark = inbox.last_number()
        self._heads = source.heads()
        self._noted: dict[str, Known] = {}
        self._found = Look()

    def look(self) -> Look:
        missing = []
        for branch, sha in sorted(self._heads.items()):
            known, to = self._known.get(branch, UNKNOWN), self._route(branch)
            if not is_asked(sha, known, to):
                if sha != known.sha:
                    self._note(branch, has_run=False)
                continue
            arrivals = self._inbox.arrivals(self._name, branch)
            finding = judge(sha, known, arrivals, self._mark)
            if finding.call is Call.RUN:
                missing.append(branch)
            else:
                self._answer(branch, to.stack if to else None, finding)
        if missing:
            self._ask_for_runs(missing)
        gone = [b for b in self._known if is_forgotten(b, self._heads, self._route(b))]
        self._inbox.note_look(self._name, self._noted, gone)
        return self._found

    def _answer(self, branch: str, stack: str | None, finding: Finding) -> None:
        old = finding.others[-1] if finding.others else ""
        if finding.call is Call.FOLLOW_UNLESS_OLDER:
            newer = [other for other in finding.others if stack and self._is_newer(branch, other)]
            old = newer[-1] if newer else ""
        if finding.call in (Call.NOTE, Call.FOLLOW, Call.FOLLOW_UNLESS_OLDER):
            if old:
                self._found.moves.append(self._move(branch, stack, old, finding.run_id))
            else:
                self._note(branch, has_run=True)

    def _is_newer(self, branch: str, other: str) -> bool:
        """Whether another commit of the branch is not in the history of its head."""
        head = Commit(repository=self._name, branch=branch, sha=self._heads[branch])
        return not self._source.standing(head, other).ahead

    def _move(self, branch: str, stack: str | None, old: str, run_id: str) -> Move:
        sha, mark = self._heads[branch], self._known.get(branch, UNKNOWN).mark
        return Move(
            commit=Commit(repository=self._name, branch=branch, sha=sha),
            stack=stack,
            old=old,
            run_id=run_id,
            known=Known(sha, has_run=True, mark=self._mark),
            # From one move to the next the mark grows: also there and back again is another one.
            key=f"follow/{self._name}/{branch}/{old}/{sha}/{mark}",
        )

    def _ask_for_runs(self, branches: list[str]) -> None:
        """Store a delivery for each of these heads; old ones, at first, are only noted."""
        revisions = self._source.revisions(self._name, branches)
        for branch in branches:
            sha, known, to = (
                self._heads[branch],
                self._known.get(branch, UNKNOWN),
                self._route(branch),
            )
            seen = revisions.get(branch)
            if seen is None or seen.commit.sha != sha:
                continue  # it has moved since: the next look sees where to
            if (
                to
                and only_noted(known, to, first=self._first)
                and not is_recent(seen.committed, datetime.now(UTC))
            ):
                self._note(branch, has_run=False)
                continue
            delivery = Delivery(
                f"{_ID}:{self._name}:{branch}:{sha}:{known.mark}",
                "push",
                self._name,
                branch,
                sha,
                seen.commit.subject,
                seen.commit.author,
            )
            if self._inbox.store(delivery):
                self._found.stored.append(delivery)

    def _note(self, branch: str, *, has_run: bool) -> None:
        self._noted[branch] = Known(self._heads[branch], has_run=has_run, mark=self._mark)

    def _route(self, branch: str) -> Route | None:
        return route(self._routes, self._name, branch)
