"""A full disk, really full: a small file system in memory; and one that is nearly full."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from blocks.engine import DockerHost, Engine
from blocks.repository import GitHubRepository
from deployments.inbox import Delivery, Inbox
from deployments.receiver import Repositories, make_receiver
from domain.commit import Commit
from domain.errors import DiskFull, DiskLow
from domain.github import signature
from domain.image import BuiltImage
from domain.settings import BuildSettings
from flows import steps
from tests.conftest import Origin, remove_images, unique


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


@pytest.mark.engine
def test_below_the_threshold_no_build_starts_but_what_is_built_is_taken_again(
    origin: Origin, docker_host: DockerHost, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        steps, "load", lambda kind, _: origin.block if kind is GitHubRepository else docker_host
    )
    monkeypatch.setattr(steps, "run_log", lambda: said.append)
    origin.push({"Dockerfile": "ARG BASE\nFROM $BASE\n", "unique": unique()})
    commit = Commit(repository="hello", branch="master")
    settings = BuildSettings(args={"BASE": "samebits/python:local"})

    def build(least_free_mib: int) -> str:
        monkeypatch.setenv("SAMEBITS_LEAST_FREE_MIB", str(least_free_mib))
        built = steps._build.fn(commit, settings, trusted=False)
        return built.image_id if isinstance(built, BuiltImage) else "taken again"

    try:
        with pytest.raises(DiskLow, match="no build is started"):
            build(1 << 40)
        assert said == []
        assert [i for i in engine.built_images() if origin.block.url in i.labels.values()] == []
        assert build(0).startswith("sha256:")
        assert build(1 << 40) == "taken again"
    finally:
        remove_images(docker_host, origin.block.url)
