"""The hook delivers a push of a real git repository as GitHub would."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deployments.post_receive import deliver, payload
from domain.github import (
    NoRun,
    Push,
    headers_of,
    is_signed,
    named_repository,
    read_push,
    same_repository,
)

NONE = "0" * 40
SECRET = "the secret of hello"


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Ada Ü", "-c", "user.email=ada@example.com"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare repository with one commit, as the working directory: so git runs its hooks."""
    folder = tmp_path / "hello.git"
    folder.mkdir()
    git(folder, "init", "--quiet", "--bare")
    tree = git(folder, "hash-object", "-w", "-t", "tree", "/dev/null")
    sha = git(folder, "commit-tree", tree, "-m", "Fix <it> & 'that'\n\nBecause.")
    git(folder, "update-ref", "refs/heads/feature/ü", sha)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def sha(repository: Path) -> str:
    return git(repository, "rev-parse", "refs/heads/feature/ü")


@dataclass
class Receiver:
    """A receiver that keeps what it got, and answers what it is told to."""

    status: int = 202
    answer: bytes = b'{"reason": ""}'
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(kept.status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(kept.answer)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}/github"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield kept
        server.shutdown()
        thread.join()


def test_a_push_reads_as_one_of_githubs(repository: Path, sha: str) -> None:
    body = json.dumps(payload(NONE, sha, "refs/heads/feature/ü", repository)).encode()
    wanted = Push(branch="feature/ü", sha=sha, subject="Fix <it> & 'that'", author="Ada Ü")
    assert read_push("push", body) == wanted
    assert same_repository(str(repository), named_repository(body)[1])


def test_a_deleted_branch_and_a_tag_start_no_run(repository: Path, sha: str) -> None:
    for before, after, ref in ((sha, NONE, "refs/heads/x"), (NONE, sha, "refs/tags/v1")):
        body = json.dumps(payload(before, after, ref, repository)).encode()
        assert isinstance(read_push("push", body), NoRun)


def test_the_hook_delivers_each_line_that_git_gives_signed(
    repository: Path, sha: str, receiver: Receiver, tmp_path: Path
) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    said = subprocess.run(
        [sys.executable, "-m", "deployments.post_receive", receiver.url, str(secret_file)],
        input=f"{NONE} {sha} refs/heads/feature/ü\n{sha} {NONE} refs/heads/old\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.splitlines() == ["feature/ü: delivered", "old: delivered"]
    (headers, body), (other_headers, other) = receiver.got
    assert isinstance(read_push("push", body), Push)
    assert isinstance(read_push("push", other), NoRun)
    assert is_signed(SECRET, body, headers["x-hub-signature-256"])
    assert headers["content-type"] == "application/json"
    assert headers_of(headers)[0] == "push"
    assert headers_of(headers)[1] != headers_of(other_headers)[1]


def test_the_person_who_pushed_is_told_what_became_of_it(receiver: Receiver) -> None:
    receiver.answer = b'{"reason": "the branch was deleted"}'
    assert deliver(receiver.url, SECRET, b"{}") == "delivered the branch was deleted"
    receiver.status, receiver.answer = 401, b'{"error": "The signature is wrong."}'
    assert deliver(receiver.url, SECRET, b"{}") == "not taken, 401: The signature is wrong."


def test_a_receiver_that_is_not_there_does_not_fail_the_push() -> None:
    nobody = "http://127.0.0.1:1/github"
    assert "not delivered" in deliver(nobody, SECRET, b"{}")
