"""Names from outside: what is refused, and that nothing that passes can do harm."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.names import (
    checked_branch,
    checked_context_path,
    checked_digest,
    checked_name,
    checked_sha,
    one_line,
)
from tests.wild import branches, nasty, quick, text, with_surrogates

CHECKS = [checked_branch, checked_context_path, checked_digest, checked_name, checked_sha]


@quick
@given(st.one_of(text, nasty, with_surrogates))
def test_a_name_is_taken_or_refused_and_nothing_else_happens(name: str) -> None:
    for check in CHECKS:
        try:
            check(name)
        except BadInput as error:
            str(error).encode()


@pytest.mark.parametrize("name", ["master", "feature/ü", "v1.2", "a@b", "refs/heads/x", "x" * 240])
def test_a_branch_name_that_git_allows_is_taken(name: str) -> None:
    assert checked_branch(name) == name


@pytest.mark.parametrize("name", ["--upload-pack=x", "-", "-b"])
def test_a_branch_name_that_reads_as_an_option_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        checked_branch(name)


@pytest.mark.parametrize(
    "name",
    ["", "@", "HEAD", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a..b", "a.lock", "a.lock/b", "a@{b"]
    + [f"a{character}b" for character in " ~^:?*[\\\x00\n\t\x7f\ud800"]
    + ["a\n", "x" * 241, "ü" * 121],
)
def test_a_branch_name_that_git_does_not_allow_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        checked_branch(name)


@quick
@given(branches)
def test_an_ordinary_branch_name_is_never_refused(name: str) -> None:
    assert checked_branch(name) == name


@pytest.mark.parametrize(
    ("check", "good"), [(checked_sha, "0123456789" * 4), (checked_digest, "sha256:" + "a1" * 32)]
)
def test_a_sha_or_digest_is_whole_lower_case_and_without_a_line_end(
    check: Callable[[str], str], good: str
) -> None:
    assert check(good) == good
    for bad in (good[:-1], good + "0", good + "\n", " " + good, good.replace("1", "g"), "", "HEAD"):
        with pytest.raises(BadInput):
            check(bad)
    with pytest.raises(BadInput):
        checked_sha("A" * 40)


@pytest.mark.parametrize("name", ["hello-service", "a", "1", "x" * 60])
def test_a_name_of_small_letters_digits_and_single_dashes_is_taken(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a--b", "-a", "a-", "a/b", "a.b", "a\n", "ü", "x" * 61])
def test_a_name_of_anything_else_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        checked_name(name)


@pytest.mark.parametrize(
    ("given_path", "path"),
    [("Dockerfile", "Dockerfile"), ("./a//b/.", "a/b"), ("..a/b..", "..a/b.."), ("ü/ö", "ü/ö")],
)
def test_a_path_inside_the_context_is_taken_in_its_short_form(given_path: str, path: str) -> None:
    assert checked_context_path(given_path) == path


@pytest.mark.parametrize("path", ["", ".", "./", "/etc/passwd", "../x", "a/../../x", "a\\b", "\0"])
def test_a_path_that_is_no_file_inside_the_context_is_refused(path: str) -> None:
    with pytest.raises(BadInput):
        checked_context_path(path)


@quick
@given(nasty)
def test_a_path_that_is_taken_never_leads_upwards(path: str) -> None:
    try:
        taken = checked_context_path(path)
    except BadInput:
        return
    assert taken
    assert not taken.startswith("/")
    assert not {"", ".", ".."} & set(taken.split("/"))
    assert checked_context_path(taken) == taken


@quick
@given(st.one_of(text, nasty, with_surrogates), st.integers(1, 120))
def test_one_line_is_one_line_that_can_be_shown_anywhere(wild: str, limit: int) -> None:
    line = one_line(wild, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    assert line == line.strip()
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or "\u202a" <= c <= "\u202e" for c in line)
    line.encode()
    assert one_line(line, limit) == line


def test_one_line_keeps_the_first_line_and_says_where_it_was_cut() -> None:
    assert one_line("  Fix it\r\n\nbecause") == "Fix it"
    assert one_line("a\tb\x1b[31mc") == "a b [31mc"
    assert one_line("x" * 101) == "x" * 99 + "…"
    assert one_line("") == ""
