"""The repository that all systems build, and the webhooks that tell them of its pushes."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from uuid import uuid4

import httpx

from deployments import example

_AT_ONCE = 10
_numbers = count(1)


class Repository:
    """A bare repository with the example, in which each commit changes one small file."""

    def __init__(self, bare: Path, work: Path) -> None:
        self.bare, self._work = bare, work
        example.git("clone", "--quiet", str(bare), str(work))
        # The webhooks are sent by hand, so that the clock starts with them.
        (bare / "hooks" / "post-receive").unlink(missing_ok=True)

    def commit(self, branch: str) -> str:
        """Push a commit with another content; returns its SHA."""
        number = next(_numbers)
        (self._work / "VERSION").write_text(f"{number} of {time.time()}\n")
        sha = example.commit(self._work, f"The change number {number}")
        self._push(f"HEAD:refs/heads/{branch}")
        return sha

    def commit_nothing(self, branches: list[str]) -> list[str]:
        """Push a commit to each branch, all with the same content; returns their SHAs."""
        shas = []
        for branch in branches:
            message = f"Nothing is changed on {branch}"
            example.git(
                "-C", str(self._work), *_AUTHOR, "commit", "-q", "--allow-empty", "-m", message
            )
            shas.append(example.git("-C", str(self._work), "rev-parse", "HEAD"))
        self._push(*(f"{sha}:refs/heads/{b}" for sha, b in zip(shas, branches, strict=True)))
        return shas

    def promote(self, branch: str, other: str) -> str:
        """Push what a branch has to another one; returns its SHA."""
        sha = example.git("-C", str(self.bare), "rev-parse", f"refs/heads/{branch}")
        self._push(f"{sha}:refs/heads/{other}")
        return sha

    def version(self, branch: str) -> str:
        """What the example on a branch says of itself once it serves."""
        return example.git("-C", str(self.bare), "show", f"refs/heads/{branch}:VERSION")

    def _push(self, *refs: str) -> None:
        example.git("-C", str(self._work), "push", "--quiet", "--force", "origin", *refs)


_AUTHOR = ("-c", "user.name=Ada Lovelace", "-c", "user.email=ada@example.com")


class Webhook:
    """Where a system takes GitHub's deliveries."""

    def __init__(self, url: str, repository: Path, secret: str = "") -> None:
        self._url, self._repository, self._secret = url, repository, secret
        self._client = httpx.Client(trust_env=False, timeout=60)

    def push(self, sha: str, branch: str) -> float:
        """Deliver a push; returns the time at which it was begun."""
        body = json.dumps(self._payload(sha, branch)).encode()
        signature = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": str(uuid4()),
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        began = time.time()
        self._client.post(self._url, content=body, headers=headers).raise_for_status()
        return began

    def burst(self, shas: list[str], branches: list[str]) -> float:
        """Deliver many at once; returns the time at which the first was begun."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return min(pool.map(self.push, shas, branches))

    def _payload(self, sha: str, branch: str) -> dict[str, object]:
        ada = {"name": "Ada Lovelace", "email": "ada@example.com", "username": "ada"}
        commit = {
            "id": sha,
            "message": "A change",
            "timestamp": "2026-01-01T00:00:00Z",
            "url": f"https://github.com/example/hello-service/commit/{sha}",
            "author": ada,
            "committer": ada,
            "added": [],
            "removed": [],
            "modified": ["VERSION"],
            "distinct": True,
        }
        return {
            "ref": f"refs/heads/{branch}",
            "before": "0" * 40,
            "after": sha,
            "created": False,
            "deleted": False,
            "forced": False,
            "repository": {
                "name": "hello-service",
                "full_name": "example/hello-service",
                "clone_url": str(self._repository),
                "html_url": "https://github.com/example/hello-service",
            },
            "pusher": {"name": "ada"},
            "sender": {"login": "ada"},
            "head_commit": commit,
            "commits": [commit],
        }


def wait_for(look: Callable[[], float | None], seconds: float, what: str) -> float:
    """Look until there is something; returns it. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.01)
    return found
