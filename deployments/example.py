"""The example repository on this host: a bare repository whose pushes are delivered as GitHub's."""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from deployments.inbox import Inbox
from deployments.secret_files import secret_file
from deployments.settings import SystemSettings
from domain.heads import Known

NAME = "hello-service"
SOURCE = Path(__file__).parent.parent / "examples" / NAME
_AUTHOR = ["-c", "user.name=Ada Lovelace", "-c", "user.email=ada@example.com"]
_HOOK = """\
#!/bin/sh
# Delivers each pushed branch to the receiver, signed, as GitHub's webhook does.
exec {python} -m deployments.post_receive {url} {secret}
"""


def bare_repository(settings: SystemSettings) -> Path:
    """Where the bare repository lies; clone it, commit, push."""
    return settings.home / "example" / f"{NAME}.git"


def webhook_secret(settings: SystemSettings) -> str:
    """The secret that signs its deliveries."""
    return secret_file(_secret_path(settings))


def create(settings: SystemSettings) -> None:
    """Make the bare repository, with branches master and release; one that is there is kept."""
    bare = bare_repository(settings)
    if not bare.exists():
        with tempfile.TemporaryDirectory() as work:
            git("init", "--quiet", "--initial-branch=master", work)
            subprocess.run(["cp", "-R", f"{SOURCE}/.", work], check=True)
            commit(Path(work), "The first hello")
            git("-C", work, "branch", "release")
            git("clone", "--quiet", "--bare", work, str(bare))
    hook = bare / "hooks" / "post-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        _HOOK.format(
            python=shlex.quote(sys.executable),
            url=settings.receiver_url,
            secret=shlex.quote(str(_secret_path(settings))),
        )
    )
    hook.chmod(0o755)
    webhook_secret(settings)


def take_as_known(settings: SystemSettings) -> None:
    """Make it, and have no run started for what is there already, which the first start would."""
    create(settings)
    inbox = Inbox(settings.inbox)
    if inbox.last_look(NAME) is None:
        listed = git("-C", str(bare_repository(settings)), "show-ref", "--heads")
        heads = [line.split(" refs/heads/") for line in listed.splitlines()]
        known = {branch: Known(sha, has_run=True, mark=0) for sha, branch in heads}
        inbox.note_look(NAME, known)


def commit(work: Path, message: str, author: str = "Ada Lovelace") -> str:
    """Commit all that has changed; returns the SHA."""
    git("-C", str(work), "add", "--all")
    name = f"user.name={author}"
    git("-C", str(work), *_AUTHOR, "-c", name, "commit", "--quiet", "--message", message)
    return git("-C", str(work), "rev-parse", "HEAD")


def git(*arguments: str) -> str:
    """Run git for the example, untouched by the user's own configuration; returns its output."""
    done = subprocess.run(
        ["git", *arguments],
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "HOME": "/nonexistent",
        },
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _secret_path(settings: SystemSettings) -> Path:
    return settings.home / "example" / "webhook.secret"
