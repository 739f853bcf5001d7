"""The room of git: a repository on GitHub, seen through a mirror on this host."""

import base64
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, ClassVar
from urllib.parse import urlsplit, urlunsplit

import git
from filelock import FileLock
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, field_validator

from blocks.fresh import Fresh
from blocks.git_commits import Revision, commits_of, head_of, heads_of, leads_to, revision
from blocks.git_words import git_error, protocol
from blocks.home import mirrors_home
from domain.commit import ANY_BRANCH, Commit
from domain.errors import (
    BadInput,
    CommitNotFound,
    CommitNotOnBranch,
    DiskFull,
    RepositoryUnreachable,
    SamebitsError,
)
from domain.names import checked_branch, checked_name, is_sha, one_line
from domain.order import Standing

_TIMEOUT_SECONDS = 300
_LOOK_SECONDS = 60
# What `git archive` writes is the commit, whole: its own attributes could leave files out of it.
_ATTRIBUTES = "* -export-ignore -export-subst\n"
_PACK = ("git", "-c", "gc.auto=1000", "-c", "gc.autoDetach=false")
_IN_THE_WAY = "cannot lock ref"
_FETCH = ("git", "fetch", "--quiet", "--prune", "--no-tags", "--no-recurse-submodules")

_fetched = Fresh()

DEFAULT_REGISTRY = "default"
log = logging.getLogger("samebits.repository")


class GitHubRepository(Block):
    """A repository whose commits are built, tested and deployed."""

    _block_type_name = "Samebits: GitHub repository"
    _block_type_slug = "samebits-repository"
    _description = "A repository on GitHub: where commits come from."
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str = Field(
        description="URL to clone from: https, ssh, or a path on this host",
        examples=["https://github.com/my-team/my-service.git"],
    )
    token: SecretStr | None = Field(
        default=None,
        description="Token that may read the repository (contents: read); none for a public one",
        examples=["github_pat_…"],
    )
    webhook_secret: SecretStr = Field(
        min_length=8,
        description="Secret of the webhook; the same as in the webhook's settings on GitHub",
        examples=["a long random text"],
    )
    registry: str = Field(
        default=DEFAULT_REGISTRY,
        pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$",
        description="Name of the block of the registry that its images are published to",
        examples=["ecr"],
    )

    @field_validator("url")
    @classmethod
    def _known_protocol(cls, url: str) -> str:
        if url.startswith("-") or protocol(url) not in ("https", "ssh", "file"):
            raise ValueError("give an https:// or ssh:// URL, git@host:path, or an absolute path")
        if urlsplit(url).password:
            raise ValueError("put the token into the field for it, not into the URL")
        return url

    @property
    def public_url(self) -> str:
        """The URL without a user, as it may be shown."""
        if "://" not in self.url:
            return self.url
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def commit_url(self, sha: str) -> str:
        """Where a person can look at a commit; empty for one that has no web page."""
        if not self.url.startswith("https://") or not is_sha(sha):
            return ""
        return f"{self.public_url.removesuffix('.git')}/commit/{sha}"

    def heads(self) -> dict[str, str]:
        """The SHA that each branch is at now, asked of git itself, without the mirror.

        Branches whose names cannot be built are left out.
        """
        return {
            branch: sha
            for branch, sha in self._listed().items()
            if _can_be_built(self.public_url, branch)
        }

    def head(self, branch: str) -> str:
        """The SHA that a branch is at now, asked of git itself; empty where it is gone."""
        return self._listed(f"refs/heads/{branch}").get(branch, "")

    def _listed(self, *patterns: str) -> dict[str, str]:
        with _git_faults(self.public_url):
            # Not in a folder where git would find the configuration of some repository.
            listed = git.Git("/").execute(
                ["git", "ls-remote", "--heads", "--", self.url, *patterns],
                env=self._environment(),
                kill_after_timeout=_LOOK_SECONDS,
            )
        lines = [line.partition("\trefs/heads/") for line in str(listed).split("\n")]
        return {branch: sha for sha, _, branch in lines if is_sha(sha)}

    def revisions(self, name: str, branches: Iterable[str]) -> dict[str, Revision]:
        """Fetch once, and look up the heads of these branches; those that are gone are left out."""
        with self._mirror(name) as mirror:
            self._fetch(mirror)
            heads = heads_of(mirror)
            return {
                branch: revision(mirror, heads[branch], Commit(repository=name, branch=branch))
                for branch in branches
                if branch in heads
            }

    def fetch(self, name: str, branch: str) -> None:
        """Fetch a branch now: what `find` looks for in the next seconds may be there already.

        What goes wrong `find` raises, too: a server that hangs is not waited for a second time.
        """
        named = f"{name} {checked_branch(branch)}"
        with self._mirror(name) as mirror:
            try:
                self._fetch(mirror, branch)
            except SamebitsError as error:
                _fetched.note(named, error)
                raise
            _fetched.note(named)

    def find(self, commit: Commit) -> Revision:
        """Fetch, and look the commit up on its branch; an empty SHA is the branch's head.

        Raises CommitNotFound or CommitNotOnBranch where it was pushed away.
        """
        if commit.branch == ANY_BRANCH:
            raise BadInput("No branch was given.", hint="Name the branch to build.")
        with self._mirror(commit.repository) as mirror:
            if _fetched.take(f"{commit.repository} {commit.branch}"):
                # GitHub may show a push a moment after it has told of it.
                with suppress(CommitNotFound, CommitNotOnBranch):
                    return self._look_up(mirror, commit)
            self._fetch(mirror, commit.branch)
            return self._look_up(mirror, commit)

    def _look_up(self, mirror: git.Repo, commit: Commit) -> Revision:
        head = head_of(mirror, commit.branch)
        sha = commit.sha or head
        if not head:
            raise CommitNotOnBranch(
                f"The branch {commit.branch} is gone, and commit {commit.short_sha} with it.",
                hint="If it is wanted after all, push it again and retry this run.",
            )
        if sha != head and not commits_of(mirror, [sha]):
            raise CommitNotFound(
                f"There is no commit {sha} in {self.public_url}.",
                why="It was never pushed, or was force-pushed away.",
                hint=f"The branch {commit.branch} is at {head[:8]} now.",
            )
        if not leads_to(mirror, sha, head):
            raise CommitNotOnBranch(
                f"Commit {sha[:8]} is no longer on {commit.branch}.",
                why=f"The branch was force-pushed and is at {head[:8]} now.",
                hint="If it is wanted after all, push it again and retry this run.",
            )
        return revision(mirror, sha, commit)

    def standing(self, commit: Commit, running: str) -> Standing:
        """Ask git, and see how a commit stands to its branch and to the one that runs (a SHA)."""
        head = self.head(commit.branch)
        named = {sha for sha in (head, commit.sha, running) if is_sha(sha)}
        with self._mirror(commit.repository) as mirror:
            known = commits_of(mirror, named)
            if known != named:
                self._fetch(mirror)
                head = head_of(mirror, commit.branch)  # it may have gone on meanwhile
                known = commits_of(mirror, named | ({head} if head else set()))

            @cache  # git is asked for few of these: most often the commit is the head
            def leads(old: str, new: str) -> bool:
                return {old, new} <= known and leads_to(mirror, old, new)

            ahead = leads(running, commit.sha)
            return Standing(
                head=head,
                on_branch=leads(commit.sha, head),
                running_on_branch=leads(running, head),
                ahead=ahead,
                behind=running == commit.sha if ahead else leads(commit.sha, running),
            )

    @contextmanager
    def archive(self, name: str, sha: str) -> Iterator[IO[bytes]]:
        """A seekable tar of exactly that commit (`git archive`)."""
        with tempfile.TemporaryFile() as tar:
            with self._mirror(name) as mirror, _git_faults(self.public_url):
                mirror.archive(tar, sha, format="tar")
            tar.seek(0)
            yield tar

    @contextmanager
    def _mirror(self, name: str) -> Iterator[git.Repo]:
        """The bare mirror of this repository, locked: fetches of one mirror take turns."""
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(f"{path}.lock"),
            _git_faults(self.public_url),
            _made(path) as mirror,
            mirror.git.custom_environment(**self._environment()),
        ):
            yield mirror

    def pack(self, name: str) -> None:
        """Have git pack the mirror, if there is one, where many fetches have left much in it that
        lies loose. Raises DiskFull where it cannot.
        """
        if not _path(name).exists():
            return
        with self._mirror(name) as mirror:
            try:
                mirror.git.execute([*_PACK, "gc", "--auto", "--quiet"])
            except git.GitCommandError as error:
                raise DiskFull(
                    f"The mirror of {self.public_url} cannot be packed.",
                    why=one_line(str(error.stderr), 300),
                    hint="Free space; or remove its folder under `mirrors` in the data folder, and "
                    "the next run fetches it anew.",
                ) from None

    def _fetch(self, mirror: git.Repo, branch: str = "") -> None:
        """Fetch all branches; or one, with those whose names begin with its own, as git looks at
        each branch that it fetches.
        """
        refs = f"refs/heads/{branch}*"
        try:
            with _git_faults(self.public_url):
                mirror.git.execute(
                    [*_FETCH, "--", self.url, f"+{refs}:{refs}"],
                    kill_after_timeout=_TIMEOUT_SECONDS,
                )
        except RepositoryUnreachable as error:
            if not branch or _IN_THE_WAY not in error.why:
                raise
            # A branch that is gone: `a` is in the way of `a/b`.
            self._fetch(mirror)

    def _environment(self) -> dict[str, str]:
        """Git without the host's configuration, hooks and prompts; the token never in arguments."""
        config = {"core.hooksPath": "/dev/null", "gc.auto": "0"}
        if self.token and self.url.startswith("https://"):
            login = f"x-access-token:{self.token.get_secret_value()}".encode()
            header = f"Authorization: Basic {base64.b64encode(login).decode()}"
            config[f"http.{self.public_url}.extraHeader"] = header
        environment = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": protocol(self.url),
            "GIT_CONFIG_COUNT": str(len(config)),
        }
        for number, (key, value) in enumerate(config.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return environment


@cache
def _can_be_built(url: str, branch: str) -> bool:
    """Whether a branch has a name that is taken here; of one that has not, the log says so once."""
    try:
        checked_branch(branch)
    except BadInput as error:
        log.warning("a branch of %s is left out: %s", url, error)
        return False
    return True


def _path(name: str) -> Path:
    return mirrors_home() / f"{checked_name(name)}.git"


def _made(path: Path) -> git.Repo:
    """The mirror that lies there; it is made where it does not, or was left half made by a kill."""
    attributes = path / "info" / "attributes"
    with suppress(OSError, git.InvalidGitRepositoryError):
        if attributes.read_text() == _ATTRIBUTES:  # they are written last
            return git.Repo(path)
    mirror = git.Repo.init(path, bare=True)
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text(_ATTRIBUTES)
    return mirror


@contextmanager
def _git_faults(url: str) -> Iterator[None]:
    try:
        yield
    except git.GitCommandError as error:
        raise git_error(url, str(error.stderr or error)) from None
    except git.GitError as error:
        raise DiskFull(
            f"The mirror of {url} is broken.",
            why=one_line(f"{type(error).__name__}: {error}", 200),
            hint="Remove its folder under `mirrors` in the data folder, then retry.",
        ) from error
    except OSError as error:
        raise DiskFull(
            f"The mirror of {url} cannot be written.",
            why=one_line(str(error), 200),
            hint="Check space and permissions of the data folder.",
        ) from error
