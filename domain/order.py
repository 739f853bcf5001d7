"""The order of deploys: forward in git's history, never by a clock.

What runs on a stack gives way only to a commit that has it in its history; or, where the branch was
pushed back or rewritten by force, to what is the branch's head now.
"""

from pydantic import BaseModel, ConfigDict

from domain.commit import Commit
from domain.errors import CommitNotOnBranch, ReasonMissing, Superseded


class Standing(BaseModel):
    """How a commit stands in git: to its branch, and to the commit that runs now."""

    model_config = ConfigDict(frozen=True)

    head: str
    """The branch's head; empty where the branch is gone"""
    on_branch: bool
    """Whether the commit is in the history of the head"""
    running_on_branch: bool = False
    """Whether the commit that runs is in the history of the head"""
    ahead: bool = False
    """Whether the commit that runs is in the history of this one"""
    behind: bool = False
    """Whether this commit is in the history of the one that runs"""


def check_order(commit: Commit, running: str, seen: Standing, *, was_here: bool) -> None:
    """Return if a commit may take the place of the one that runs (a SHA; empty for nothing).

    `was_here`: whether the running one came from the same branch, so that its absence from there
    means that the branch was pushed by force. Raises Superseded, saying by which commit, and
    CommitNotOnBranch where the branch is gone.
    """
    if not seen.head:
        raise CommitNotOnBranch(
            f"The branch {commit.branch} is gone, and commit {commit.short_sha} with it.",
            hint="Nothing was deployed. If it is wanted after all, push it again.",
        )
    if not seen.on_branch:
        raise Superseded(
            f"Commit {commit.short_sha} is no longer on {commit.branch}: it gave way to "
            f"{seen.head[:8]}.",
            by=seen.head,
            why="The branch was pushed by force.",
        )
    if running in ("", commit.sha) or seen.ahead:
        return
    if seen.running_on_branch or (seen.behind and not was_here):
        raise Superseded(
            f"Commit {commit.short_sha} gave way to {running[:8]}, which runs now.",
            by=running,
            why="It is older." if seen.behind else "It has not got that commit in its history.",
            hint="To put it there all the same, redeploy it, with a reason.",
        )
    if commit.sha != seen.head:
        raise Superseded(
            f"Commit {commit.short_sha} gave way to {seen.head[:8]}, the head of {commit.branch}.",
            by=seen.head,
            why=f"What runs now, {running[:8]}, is not on the branch any more: its head follows.",
        )


def check_reason(commit: Commit, running: str, seen: Standing, reason: str) -> None:
    """Return if a person may put a commit in the place of the one that runs.

    Forward they may without a word; raises ReasonMissing where it goes back, or aside, and no
    reason is given.
    """
    if running in ("", commit.sha) or seen.ahead or reason.strip():
        return
    raise ReasonMissing(
        f"{commit.short_sha} does not follow {running[:8]}, which runs now: this goes back in "
        "git's history.",
        hint="Say why: the reason is kept with the run and told to the channel.",
    )
