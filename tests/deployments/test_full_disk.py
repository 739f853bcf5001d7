"""A full disk, really full: a small file system in memory."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from blocks.repository import GitHubRepository
from deployments.inbox import Delivery, Inbox
from deployments.receiver import Repositories, make_receiver
from domain.commit import Commit
from domain.errors import DiskFull
from domain.github import signature
from tests.conftest import Origin


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder with 512 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("a file system cannot be mounted here: root is needed")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


async def test_a_delivery_that_cannot_be_kept_is_answered_503_and_one_that_can_is_kept_later(
    small: Path,
) -> None:
    inbox = Inbox(small / "inbox.sqlite")
    secret = SecretStr("a long secret")
    known = {"hello": GitHubRepository(url="/srv/hello.git", webhook_secret=secret)}

    async def repositories() -> Repositories:
        return known

    app = make_receiver(inbox, repositories, lambda _: None)
    body = (
        b'{"ref": "refs/heads/master", "after": "' + b"1" * 40 + b'", '
        b'"repository": {"full_name": "x/hello", "clone_url": "/srv/hello.git"}, '
        b'"padding": "' + b"x" * 100 + b'"}'
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:

        async def deliver() -> httpx.Response:
            headers = {
                "X-GitHub-Event": "push",
                "X-GitHub-Delivery": str(uuid.uuid4()),
                "X-Hub-Signature-256": signature(secret.get_secret_value(), body),
            }
            return await client.post("/github", content=body, headers=headers)

        assert (await deliver()).status_code == 202
        fill(small)
        answers = [await deliver() for _ in range(60)]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert refused
        assert {answer.status_code for answer in refused} == {503}
        assert "Free space" in refused[0].json()["error"]
        (small / "filler").unlink()
        assert (await deliver()).status_code == 202
    kept = 60 - len(refused) + 2
    assert len(inbox.waiting(1000)) == kept


def test_a_mirror_that_does_not_fit_says_so(
    small: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMEBITS_HOME", str(small))
    origin.push({"noise": "".join(str(uuid.uuid4()) for _ in range(40_000))})
    with pytest.raises(DiskFull, match="space"):
        origin.block.find(Commit(repository="hello", branch="master"))


def test_the_inbox_names_the_file_that_cannot_be_written(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox.sqlite")
    (tmp_path / "inbox.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(DiskFull, match=r"inbox\.sqlite"):
        inbox.store(Delivery("1", "push"))
