"""Commits and branches, as a mirror has them."""

import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime

import git
from pydantic import BaseModel, ConfigDict

from domain.commit import Commit
from domain.names import one_line


class Revision(BaseModel):
    """A commit that was looked up in git."""

    model_config = ConfigDict(frozen=True)

    commit: Commit
    tree: str
    """git's name of the content: 40 hexadecimal digits"""
    committed: str
    """The commit's own time, UTC, ISO 8601"""


def head_of(mirror: git.Repo, branch: str) -> str:
    """The SHA that a branch is at; empty where it is gone."""
    return heads_of(mirror, branch).get(branch, "")


def heads_of(mirror: git.Repo, below: str = "") -> dict[str, str]:
    """The SHA of each branch; or of one, and of what git has below its name: `a/b` with `a`."""
    form, refs = "--format=%(objectname) %(refname)", f"refs/heads/{below}"
    listed = mirror.git.execute(["git", "for-each-ref", form, "--", refs])
    lines = [line.partition(" refs/heads/") for line in str(listed).split("\n")]
    return {branch: sha for sha, _, branch in lines}


def commits_of(mirror: git.Repo, shas: Iterable[str]) -> set[str]:
    """Those of these SHAs that are commits of the mirror."""
    with tempfile.TemporaryFile() as asked:
        asked.write("".join(f"{sha}^{{commit}}\n" for sha in shas).encode())
        asked.seek(0)
        command = ["git", "cat-file", "--batch-check=%(objectname) %(objecttype)"]
        said = str(mirror.git.execute(command, istream=asked))
    lines = [line.partition(" ") for line in said.splitlines()]
    return {sha for sha, _, kind in lines if kind == "commit"}


def leads_to(mirror: git.Repo, old: str, new: str) -> bool:
    """Whether a commit is in the history of another one, or is the same; both must be there."""
    if old == new:
        return True
    command = ["git", "merge-base", "--is-ancestor", old, new]
    status, _, said = mirror.git.execute(command, with_extended_output=True, with_exceptions=False)
    if status not in (0, 1):
        raise git.GitCommandError(command, status, said)
    return status == 0


def revision(mirror: git.Repo, sha: str, asked: Commit) -> Revision:
    # As bytes: what a commit says of its encoding may be anything.
    said = mirror.git.execute(
        ["git", "log", "-1", "--encoding=UTF-8", "--format=%T%n%ct%n%an%n%B", sha, "--"],
        stdout_as_string=False,
    )
    tree, committed, author, message = said.decode(errors="replace").split("\n", 3)
    return Revision(
        commit=Commit(
            repository=asked.repository,
            branch=asked.branch,
            sha=sha,
            subject=one_line(message),
            author=one_line(author),
        ),
        tree=tree,
        committed=_time(int(committed or 0)),
    )


def _time(seconds: int) -> str:
    """ISO 8601, UTC; a commit may claim any time, also one that no calendar has."""
    latest = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
    return datetime.fromtimestamp(min(max(seconds, 0), latest), UTC).isoformat()
