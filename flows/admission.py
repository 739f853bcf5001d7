"""Whether an image may take the place of what a stack runs: asked of git, under its lock."""

from collections.abc import Callable
from functools import cache

from blocks.prefect_api import recorded_images
from blocks.repository import GitHubRepository
from domain.commit import Commit
from domain.image import Serving
from domain.order import Standing, check_order, check_reason

Admit = Callable[[Serving | None], None]


def only_forward(source: GitHubRepository, commit: Commit) -> Admit:
    """A pipeline goes forward in git's history, and follows its branch; raises Superseded."""
    # It is asked again before the traffic is turned over. Then what runs is still the same, and so
    # is how the commit stands, unless the branch has another head.
    running_of = cache(running_commits)
    seen: dict[str, Standing] = {}

    def standing(sha: str) -> Standing:
        if sha not in seen or source.head(commit.branch) != seen[sha].head:
            seen[sha] = source.standing(commit, sha)
        return seen[sha]

    def admit(serving: Serving | None) -> None:
        running = running_of(serving)
        here = [known for known in running if known.branch == commit.branch]
        # Without a record of it nobody knows where it came from: the branch's head then decides.
        was_here = bool(here) or not any(known.branch for known in running)
        for sha in dict.fromkeys(known.sha for known in here or running) or [""]:
            check_order(commit, sha, standing(sha), was_here=was_here)

    return admit


def with_reason(source: GitHubRepository, commit: Commit, reason: str) -> Admit:
    """A person may go back, and says why; raises ReasonMissing."""

    def admit(serving: Serving | None) -> None:
        if reason.strip():
            return  # a rollback must not need a git server that answers
        running = running_commits(serving)
        sha = running[0].sha if running else ""
        check_reason(commit, sha, source.standing(commit, sha), reason)

    return admit


def running_commits(serving: Serving | None) -> list[Commit]:
    """The commit that a stack runs, once for each branch that it was published from.

    A stack that does not say which one it is may run each that was published as this digest: a
    revert gives a second commit the content of an earlier one. Empty where nothing runs, or nobody
    knows of which commit it is.
    """
    if serving is None:
        return []
    records = [image.commit for image in recorded_images(serving.digest)]
    if not serving.sha:
        return records
    found = [commit for commit in records if commit.sha == serving.sha]
    return found or [Commit.model_construct(None, repository="", branch="", sha=serving.sha)]
