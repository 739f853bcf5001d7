"""GitHub's deliveries: whose they are, and what they ask for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadPayload
from domain.github import (
    NoRun,
    Push,
    headers_of,
    is_signed,
    named_repository,
    read_push,
    same_repository,
    signature,
)
from domain.names import checked_branch, checked_sha
from tests.wild import branches, nasty, quick, shas, text, with_surrogates

SECRET = "It's a Secret to Everybody"
SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
SHA = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"
NONE = "0" * 40


def push(**changed: Any) -> bytes:
    """The body of a push: what GitHub sends, shortened, with some of it changed."""
    head = {
        "id": SHA,
        "tree_id": "f9d2a07e9488b91af2641b26b9407fe22a451433",
        "message": "Update README.md\n\nBecause.",
        "timestamp": "2019-05-15T15:20:41Z",
        "author": {"name": "Codertocat", "email": "c@example.com", "username": "Codertocat"},
        "added": [],
    }
    whole: dict[str, Any] = {
        "ref": "refs/heads/master",
        "before": NONE,
        "after": SHA,
        "created": True,
        "deleted": False,
        "forced": False,
        "base_ref": None,
        "commits": [head],
        "head_commit": head,
        "repository": {
            "id": 186853002,
            "full_name": "Codertocat/Hello-World",
            "clone_url": "https://github.com/Codertocat/Hello-World.git",
            "license": None,
        },
        "pusher": {"name": "Codertocat"},
    }
    return json.dumps(whole | changed).encode()


# -- signatures -------------------------------------------------------------------------------


def test_a_signature_is_that_of_githubs_own_example() -> None:
    assert signature(SECRET, b"Hello, World!") == SIGNATURE
    assert is_signed(SECRET, b"Hello, World!", SIGNATURE)


@pytest.mark.parametrize(
    "header",
    ["", "sha256=", SIGNATURE.upper(), SIGNATURE[:-1], SIGNATURE + " ", SIGNATURE[7:], "sha1=0"],
)
def test_a_signature_that_is_not_exactly_right_is_wrong(header: str) -> None:
    assert not is_signed(SECRET, b"Hello, World!", header)


@pytest.mark.parametrize("header", ["ü", SIGNATURE + "é", "sha256=\xff", "\ud800"])
def test_a_signature_that_is_not_ascii_is_wrong_and_no_crash(header: str) -> None:
    assert not is_signed(SECRET, b"Hello, World!", header)


@quick
@given(text, st.binary(max_size=200), st.one_of(text, with_surrogates))
def test_only_the_signature_of_this_body_by_this_secret_is_right(
    secret: str, body: bytes, header: str
) -> None:
    right = signature(secret, body)
    assert is_signed(secret, body, right)
    assert is_signed(secret, body, header) == (header == right)
    assert not is_signed(secret + "x", body, right)
    assert not is_signed(secret, body + b"x", right)


# -- headers ----------------------------------------------------------------------------------


def test_event_and_delivery_are_read_from_the_headers() -> None:
    headers = {"x-github-event": "push", "x-github-delivery": "72d3162e"}
    assert headers_of(headers) == ("push", "72d3162e")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-github-event": "push"},
        {"x-github-delivery": "1"},
        {"x-github-event": "push", "x-github-delivery": "1" * 101},
    ],
)
def test_a_request_without_githubs_headers_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadPayload):
        headers_of(headers)


# -- which repository -------------------------------------------------------------------------


def test_a_body_names_its_repository_by_full_name_and_url() -> None:
    clone_url = "https://github.com/Codertocat/Hello-World.git"
    assert named_repository(push()) == ("Codertocat/Hello-World", clone_url)


@pytest.mark.parametrize("body", [b"{}", b'{"repository": null}', b'{"zen": "Keep it simple."}'])
def test_a_body_may_name_no_repository(body: bytes) -> None:
    assert named_repository(body) == ("", "")


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/Codertocat/Hello-World.git",
        "https://github.com/codertocat/hello-world",
        "https://someone@github.com/Codertocat/Hello-World.git/",
        "git@github.com:Codertocat/Hello-World.git",
        "ssh://git@github.com/Codertocat/Hello-World.git",
    ],
)
def test_a_repository_is_the_same_however_its_url_is_written(url: str) -> None:
    assert same_repository(url, named_repository(push())[1])


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/Codertocat/Hello",
        "https://github.com/evil/Codertocat/Hello-World.git",
        "https://git.example.com/Codertocat/Hello-World.git",
        "/srv/Codertocat/Hello-World.git",
    ],
)
def test_another_repository_is_not_the_same(url: str) -> None:
    assert not same_repository(url, named_repository(push())[1])


def test_a_repository_without_a_name_is_none_of_ours() -> None:
    assert not same_repository("https://github.com/", "")
    assert not same_repository("/srv/git/x.git", "")


def test_a_server_of_github_enterprise_is_known_by_its_ssh_url_too() -> None:
    clone_url = "https://github.example.com/team/shop.git"
    assert same_repository("git@github.example.com:team/shop.git", clone_url)
    assert not same_repository("git@github.com:team/shop.git", clone_url)


# -- what it asks for -------------------------------------------------------------------------


def test_a_push_of_a_commit_says_branch_sha_subject_and_author() -> None:
    wanted = Push(branch="master", sha=SHA, subject="Update README.md", author="Codertocat")
    assert read_push("push", push()) == wanted


def test_a_push_without_its_head_commit_is_a_push_all_the_same() -> None:
    assert read_push("push", push(head_commit=None)) == Push(branch="master", sha=SHA)
    other = {"id": "1" * 40, "message": "Another one"}
    assert read_push("push", push(head_commit=other)) == Push(branch="master", sha=SHA)


def test_an_author_without_a_name_is_called_by_the_account() -> None:
    head = {"id": SHA, "message": "Fix", "author": {"name": None, "username": "octocat"}}
    found = read_push("push", push(head_commit=head))
    assert isinstance(found, Push)
    assert found.author == "octocat"


@pytest.mark.parametrize(
    ("event", "changed", "reason"),
    [
        ("ping", {}, "'ping'"),
        ("pull_request", {}, "'pull_request'"),
        ("push", {"ref": "refs/tags/v1"}, "'refs/tags/v1' is not a branch"),
        ("push", {"after": NONE, "deleted": True}, "'master' was deleted"),
        ("push", {"after": NONE}, "'master' was deleted"),
        ("push", {"ref": "refs/heads/--upload-pack=x"}, "not a branch name that git allows"),
        ("push", {"ref": "refs/heads/*"}, "not a branch name that git allows"),
        ("push", {"ref": "refs/heads/"}, "not a branch name that git allows"),
        ("push", {"after": "--output=x"}, "not a full commit SHA"),
    ],
)
def test_what_starts_no_run_says_why(event: str, changed: dict[str, Any], reason: str) -> None:
    found = read_push(event, push(**changed))
    assert isinstance(found, NoRun)
    assert reason in found.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"payload=%7B%7D",
        b"\xff\xfe",
        b'{"ref": 7}',
        b'{"after": "x"}',
        b'{"ref": "\\ud800"}',
        b"[" * 100_000,
        push(head_commit="x"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_its_reason(body: bytes) -> None:
    with pytest.raises(BadPayload, match="content type") as refused:
        read_push("push", body)
    assert refused.value.why


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=5,
)


@quick
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "ref": st.one_of(nasty.map("refs/heads/{}".format), json_values),
            "after": st.one_of(shas, json_values),
            "deleted": json_values,
            "head_commit": json_values,
            "repository": json_values,
        },
    )
)
def test_whatever_is_in_a_push_it_is_refused_or_safe(payload: dict[str, Any]) -> None:
    body = json.dumps(payload).encode()
    try:
        named_repository(body)
        found = read_push("push", body)
    except BadPayload:
        return
    if isinstance(found, Push):
        checked_branch(found.branch)
        checked_sha(found.sha)
    else:
        assert found.reason


@quick
@given(branches, shas, text, text)
def test_a_push_is_read_as_it_was_written(branch: str, sha: str, subject: str, name: str) -> None:
    head = {"id": sha, "message": subject, "author": {"name": name}}
    found = read_push("push", push(ref=f"refs/heads/{branch}", after=sha, head_commit=head))
    if sha == NONE:
        assert isinstance(found, NoRun)
    else:
        assert isinstance(found, Push)
        assert (found.branch, found.sha) == (branch, sha)
