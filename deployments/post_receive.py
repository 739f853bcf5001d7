"""A git post-receive hook that delivers pushes as GitHub does: same shape, same signature.

usage: python -m deployments.post_receive URL SECRET_FILE, with git's lines on standard input
"""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx

from domain.github import signature

_NONE = "0" * 40


def payload(before: str, after: str, ref: str, repository: Path) -> dict[str, Any]:
    """A push payload, with the fields that GitHub sends.

    Source: https://docs.github.com/en/webhooks/webhook-events-and-payloads#push
    """
    deleted = after == _NONE
    head = None if deleted else _commit(after)
    name = repository.name.removesuffix(".git")
    return {
        "ref": ref,
        "before": before,
        "after": after,
        "created": before == _NONE,
        "deleted": deleted,
        "forced": False,
        "base_ref": None,
        "compare": "",
        "commits": [head] if head else [],
        "head_commit": head,
        "repository": {
            "name": name,
            "full_name": f"example/{name}",
            "clone_url": str(repository),
            "default_branch": "master",
        },
        "pusher": {"name": "example", "email": "example@example.com"},
        "sender": {"login": "example", "type": "User"},
    }


def _commit(sha: str) -> dict[str, Any] | None:
    """The commit as GitHub shows it; None for a tag of something else."""
    form = "%T%x00%aI%x00%an%x00%ae%x00%B"
    done = subprocess.run(
        ["git", "log", "-1", f"--format={form}", sha], capture_output=True, check=False
    )
    shown = done.stdout.decode(errors="replace")
    if shown.count("\0") < 4:
        return None
    tree, timestamp, name, email, message = shown.split("\0", 4)
    author = {"name": name, "email": email, "username": name}
    return {
        "id": sha,
        "tree_id": tree,
        "message": message.strip(),
        "timestamp": timestamp,
        "author": author,
        "committer": author,
    }


def deliver(url: str, secret: str, body: bytes) -> str:
    """Send one push; returns what became of it, for the person who pushed."""
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": signature(secret, body),
    }
    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        return f"not delivered, the receiver does not answer ({error}); is `make up` running?"
    said = answer.json() if answer.headers.get("content-type") == "application/json" else {}
    if answer.status_code == 202:
        return f"delivered {said.get('reason') or ''}".strip()
    return f"not taken, {answer.status_code}: {said.get('error', '')}"


def main() -> None:
    """Deliver each line that git gives."""
    url, secret_path = sys.argv[1:]
    secret = Path(secret_path).read_text()
    for line in sys.stdin:
        before, after, ref = line.split()
        body = json.dumps(payload(before, after, ref, Path.cwd())).encode()
        print(f"{ref.removeprefix('refs/heads/')}: {deliver(url, secret, body)}", flush=True)


if __name__ == "__main__":
    main()
