"""The room of git, against real git."""

import io
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import git
import pytest
from gitdb import IStream
from pydantic import SecretStr, ValidationError

from blocks import repository as repository_module
from blocks.home import mirrors_home
from blocks.repository import GitHubRepository
from deployments import example
from domain.commit import Commit
from domain.errors import (
    BadInput,
    CommitNotFound,
    CommitNotOnBranch,
    DiskFull,
    RepositoryRefused,
    RepositoryUnreachable,
)
from domain.order import Standing
from tests.conftest import Origin

SECRET = SecretStr("a long secret")


@pytest.fixture
def silent() -> Iterator[GitHubRepository]:
    """A repository on a server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/a/b.git"
        yield GitHubRepository(url=url, webhook_secret=SECRET)


def test_a_commit_is_found_with_its_tree_author_and_own_time(origin: Origin) -> None:
    sha = origin.push({"a": "1"}, subject="The subject\n\nand a body")
    found = origin.block.find(Commit(repository="hello", branch="master", sha=sha))
    assert found.commit.subject == "The subject"
    assert found.commit.author == "Ada Lovelace"
    assert len(found.tree) == 40
    assert found.committed.endswith("+00:00")


def test_without_a_sha_the_head_of_the_branch_is_taken(origin: Origin) -> None:
    sha = origin.push({"a": "1"}, "feature/ü")
    found = origin.block.find(Commit(repository="hello", branch="feature/ü"))
    assert found.commit.sha == sha


def test_the_archive_is_exactly_that_commit(origin: Origin) -> None:
    first = origin.push({"a": "1"})
    origin.push({"b": "2"})
    block = origin.block
    block.find(Commit(repository="hello", branch="master"))
    with block.archive("hello", first) as tar, tarfile.open(fileobj=tar) as archive:
        assert archive.getnames() == ["a"]


def test_the_mirror_is_fetched_and_not_cloned_anew(origin: Origin, home: Path) -> None:
    origin.push({"a": "1"})
    origin.block.find(Commit(repository="hello", branch="master"))
    mark = home / "mirrors" / "hello.git" / "mark"
    mark.touch()
    sha = origin.push({"a": "2"})
    assert origin.block.find(Commit(repository="hello", branch="master")).commit.sha == sha
    assert mark.exists()


def test_what_was_fetched_a_moment_ago_is_looked_up_without_asking_git_again(
    origin: Origin,
) -> None:
    sha = origin.push({"a": "1"})
    commit = Commit(repository="hello", branch="master", sha=sha)
    origin.block.fetch("hello", "master")
    origin.bare.rename(origin.bare.with_suffix(".away"))
    assert origin.block.find(commit).commit.sha == sha
    with pytest.raises(RepositoryRefused):  # a later step asks
        origin.block.find(commit)


def test_a_server_that_hung_a_moment_ago_is_not_waited_for_a_second_time(
    silent: GitHubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "_TIMEOUT_SECONDS", 0.5)
    with pytest.raises(RepositoryUnreachable) as first:
        silent.fetch("hung", "master")
    commit = Commit(repository="hung", branch="master")
    with pytest.raises(RepositoryUnreachable) as told:
        silent.find(commit)
    assert told.value is first.value
    with pytest.raises(RepositoryUnreachable) as anew:  # the step's next try asks
        silent.find(commit)
    assert anew.value is not first.value


def test_a_push_that_the_git_server_did_not_show_yet_a_moment_ago_is_found(origin: Origin) -> None:
    origin.push({"a": "1"})
    for branch in ("master", "new"):
        origin.block.fetch("hello", branch)
    sha = origin.push({"a": "2"})
    new = origin.push({"a": "3"}, "new")
    for branch, late in (("master", sha), ("new", new)):
        found = origin.block.find(Commit(repository="hello", branch=branch, sha=late))
        assert found.commit.sha == late


def test_a_branch_is_fetched_with_those_alone_that_begin_as_it_does(origin: Origin) -> None:
    sha = origin.push({"a": "1"}, "fix")
    origin.push({"a": "2"}, "fix-it")
    origin.push({"a": "3"}, "other")
    assert origin.block.find(Commit(repository="hello", branch="fix")).commit.sha == sha
    mirror = mirrors_home() / "hello.git"
    assert sorted(branch.name for branch in git.Repo(mirror).heads) == ["fix", "fix-it"]


def test_a_branch_is_found_where_one_that_is_gone_had_its_place(origin: Origin) -> None:
    above = origin.push({"a": "1"}, "fix")
    assert origin.block.find(Commit(repository="hello", branch="fix")).commit.sha == above
    example.git("-C", str(origin.bare), "update-ref", "-d", "refs/heads/fix")
    below = origin.push({"a": "2"}, "fix/it")
    assert origin.block.find(Commit(repository="hello", branch="fix/it")).commit.sha == below
    example.git("-C", str(origin.bare), "update-ref", "-d", "refs/heads/fix/it")
    again = origin.push({"a": "3"}, "fix")
    assert origin.block.find(Commit(repository="hello", branch="fix")).commit.sha == again


def test_a_mirror_is_packed_once_much_lies_loose_in_it(origin: Origin) -> None:
    sha = origin.push({"a": "1"})
    commit = Commit(repository="hello", branch="master", sha=sha)
    origin.block.find(commit)
    mirror = git.Repo(mirrors_home() / "hello.git")
    packs = Path(mirror.git_dir, "objects", "pack")
    origin.block.pack("hello")
    assert not list(packs.glob("*.pack"))
    for number in range(2000):
        mirror.odb.store(IStream("blob", 4, io.BytesIO(b"%4d" % number)))
    origin.block.pack("hello")
    assert list(packs.glob("*.pack"))
    assert origin.block.find(commit).commit.sha == sha


def test_a_mirror_that_is_not_there_is_not_made_to_be_packed(origin: Origin) -> None:
    origin.block.pack("hello")
    assert not (mirrors_home() / "hello.git").exists()


def test_a_mirror_that_is_broken_says_so_where_it_is_packed(origin: Origin) -> None:
    sha = origin.push({"a": "1"})
    origin.block.find(Commit(repository="hello", branch="master"))
    mirror = git.Repo(mirrors_home() / "hello.git")
    for number in range(2000):
        mirror.odb.store(IStream("blob", 4, io.BytesIO(b"%4d" % number)))
    Path(mirror.git_dir, "objects", sha[:2], sha[2:]).unlink()
    with pytest.raises(DiskFull, match=r"cannot be packed.*mirrors"):
        origin.block.pack("hello")


def test_a_commit_that_never_was_is_a_clear_message(origin: Origin) -> None:
    origin.push({"a": "1"})
    with pytest.raises(CommitNotFound, match=r"no commit 1111.*master is at"):
        origin.block.find(Commit(repository="hello", branch="master", sha="1" * 40))


def test_a_commit_that_was_force_pushed_away_is_not_built(origin: Origin) -> None:
    first = origin.push({"a": "1"})
    away = origin.push({"a": "2"})
    origin.block.find(Commit(repository="hello", branch="master"))
    origin.push_ref(first, "master", force=True)
    with pytest.raises(CommitNotOnBranch, match="force-pushed"):
        origin.block.find(Commit(repository="hello", branch="master", sha=away))


def test_a_branch_that_was_deleted_is_a_clear_message(origin: Origin) -> None:
    sha = origin.push({"a": "1"})
    with pytest.raises(CommitNotOnBranch, match="branch gone is gone"):
        origin.block.find(Commit(repository="hello", branch="gone", sha=sha))


def test_an_older_commit_of_the_branch_is_found(origin: Origin) -> None:
    older = origin.push({"a": "1"})
    origin.push({"a": "2"})
    found = origin.block.find(Commit(repository="hello", branch="master", sha=older))
    assert found.commit.sha == older


def test_every_other_branch_is_no_branch_to_build(origin: Origin) -> None:
    with pytest.raises(BadInput, match="No branch was given"):
        origin.block.find(Commit(repository="hello", branch="*"))


@pytest.mark.parametrize("branch", ["--upload-pack=touch /tmp/pwned", "-x", "a b", "a..b", ""])
def test_a_branch_that_git_would_read_as_an_option_is_refused(branch: str) -> None:
    with pytest.raises(ValidationError):
        Commit(repository="hello", branch=branch)


@pytest.mark.parametrize(
    "url",
    ["--upload-pack=x", "http://example.com/a.git", "ext::sh -c x", "relative", "https://a:b@c/d"],
)
def test_a_url_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        GitHubRepository(url=url, webhook_secret=SECRET)


def test_a_repository_that_is_not_there_says_where_to_look(tmp_path: Path) -> None:
    block = GitHubRepository(url=str(tmp_path / "none.git"), webhook_secret=SECRET)
    with pytest.raises(RepositoryRefused, match="Check URL and token"):
        block.find(Commit(repository="hello", branch="master"))


def test_a_server_that_does_not_answer_is_worth_a_second_try() -> None:
    block = GitHubRepository(url="https://127.0.0.1:9/a/b.git", webhook_secret=SECRET)
    with pytest.raises(RepositoryUnreachable) as caught:
        block.find(Commit(repository="hello", branch="master"))
    assert caught.value.retryable


def test_the_token_is_in_no_argument_no_url_and_no_message() -> None:
    block = GitHubRepository(
        url="https://127.0.0.1:9/a/b.git", webhook_secret=SECRET, token=SecretStr("ghp_secret")
    )
    with pytest.raises(RepositoryUnreachable) as caught:
        block.find(Commit(repository="hello", branch="master"))
    assert "ghp_secret" not in f"{caught.value!r} {caught.value.__cause__!r} {block!r}"


def test_hooks_and_configuration_of_the_host_are_not_used(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.push({"a": "1"})
    mark = tmp_path / "mark"
    config = tmp_path / "config"
    config.write_text(f"[core]\n\tfsmonitor = touch {mark}\n\tsshCommand = touch {mark}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    origin.block.find(Commit(repository="hello", branch="master"))
    assert not mark.exists()


def test_an_unknown_field_of_the_block_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        GitHubRepository(url="https://github.com/a/b", webhook_secret=SECRET, tokne="x")


def test_attributes_of_the_commit_leave_nothing_out_and_change_nothing(origin: Origin) -> None:
    files = {".gitattributes": "tests export-ignore\nid export-subst\n", "id": "$Format:%H$"}
    sha = origin.push({**files, "tests/test.py": "x"})
    block = origin.block
    block.find(Commit(repository="hello", branch="master"))
    with block.archive("hello", sha) as tar, tarfile.open(fileobj=tar) as archive:
        assert "tests/test.py" in archive.getnames()
        content = archive.extractfile("id")
        assert content
        assert content.read() == b"$Format:%H$"


def test_a_mirror_that_was_left_half_made_is_mended(origin: Origin, home: Path) -> None:
    sha = origin.push({"a": "1"})
    (home / "mirrors" / "hello.git" / "objects").mkdir(parents=True)
    assert origin.block.find(Commit(repository="hello", branch="master")).commit.sha == sha


def test_a_commit_of_a_time_that_no_calendar_has_is_found(origin: Origin) -> None:
    origin.push({"a": "1"})
    work = str(origin.work)
    tree = example.git("-C", work, "write-tree")
    raw = (
        f"tree {tree}\nauthor A <a@b> 99999999999999 +0000\ncommitter A <a@b> 99999999999999 +0000"
    )
    file = origin.work.parent / "raw"
    file.write_text(f"{raw}\n\nLate\n")
    sha = example.git("-C", work, "hash-object", "-t", "commit", "-w", "--literally", str(file))
    origin.push_ref(sha, "late")
    found = origin.block.find(Commit(repository="hello", branch="late"))
    assert found.commit.sha == sha


def test_a_commit_that_claims_an_encoding_that_nobody_knows_is_found(origin: Origin) -> None:
    first = origin.push({"a": "1"})
    work = str(origin.work)
    tree = example.git("-C", work, "write-tree")
    file = origin.work.parent / "raw"
    person = b"\xff\xfe Ada <a@b> 1700000000 +0000"
    head = f"tree {tree}\nparent {first}\n".encode()
    raw = head + b"author " + person + b"\ncommitter " + person + b"\nencoding no-such\n\nS\xe9\n"
    file.write_bytes(raw)
    sha = example.git("-C", work, "hash-object", "-t", "commit", "-w", "--literally", str(file))
    origin.push_ref(sha, "strange")
    block = origin.block
    found = block.revisions("hello", ["master", "strange"])
    assert [found[branch].commit.sha for branch in ("master", "strange")] == [first, sha]
    assert found["strange"].commit.subject == "S\ufffd"
    commit = Commit(repository="hello", branch="strange", sha=sha)
    assert block.find(commit).tree == tree
    assert block.standing(commit, first).ahead


def test_how_a_commit_stands_is_gits_word(origin: Origin) -> None:
    one = origin.push({"a": "1"}, "work")
    two = origin.push({"a": "2"}, "work")
    block = origin.block

    def standing(sha: str, running: str) -> Standing:
        return block.standing(Commit(repository="hello", branch="work", sha=sha), running)

    forward = Standing(head=two, on_branch=True, running_on_branch=True, ahead=True)
    assert standing(two, one) == forward
    back = Standing(head=two, on_branch=True, running_on_branch=True, behind=True)
    assert standing(one, two) == back
    origin.push_ref(one, "work", force=True)
    assert standing(one, two) == Standing(head=one, on_branch=True, behind=True)
    assert standing(two, one) == Standing(
        head=one, on_branch=False, running_on_branch=True, ahead=True
    )
    assert standing(one, "") == Standing(head=one, on_branch=True)
    assert standing(one, "0" * 40) == Standing(head=one, on_branch=True)
    example.git("-C", str(origin.work), "push", "--quiet", "origin", ":refs/heads/work")
    assert standing(one, two) == Standing(head="", on_branch=False, behind=True)


def test_the_heads_of_all_branches_are_asked_of_git_without_a_mirror(
    origin: Origin, home: Path
) -> None:
    first = origin.push({"a": "1"})
    second = origin.push({"a": "2"}, "feature/ü")
    assert origin.block.heads() == {"master": first, "feature/ü": second}
    origin.push_ref(first, "feature/ü", force=True)
    assert origin.block.heads()["feature/ü"] == first
    assert not (home / "mirrors").exists()


def test_a_repository_without_a_branch_has_no_heads(origin: Origin) -> None:
    assert origin.block.heads() == {}


def test_a_branch_whose_name_cannot_be_built_is_left_out_and_logged_once(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    sha = origin.push({"a": "1"})
    reference = origin.bare / "refs" / "heads" / "-x"
    reference.write_text(f"{sha}\n")
    for _ in range(2):
        assert origin.block.heads() == {"master": sha}
    assert len([line for line in caplog.messages if "'-x'" in line]) == 1


def test_a_git_server_that_hangs_is_not_waited_for_for_ever(
    silent: GitHubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "_LOOK_SECONDS", 1)
    with pytest.raises(RepositoryUnreachable, match="does not answer"):
        silent.heads()


def test_the_heads_of_several_branches_are_looked_up_with_one_fetch(origin: Origin) -> None:
    first = origin.push({"a": "1"}, subject="One")
    second = origin.push({"a": "2"}, "feature", subject="Two")
    found = origin.block.revisions("hello", ["master", "feature", "gone"])
    assert {branch: seen.commit.sha for branch, seen in found.items()} == {
        "master": first,
        "feature": second,
    }
    assert (found["feature"].commit.subject, found["feature"].commit.branch) == ("Two", "feature")
