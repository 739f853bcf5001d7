"""A commit is checked when it is made, whoever makes it."""

import pytest
from pydantic import ValidationError

from domain.commit import Commit

SHA = "0123456789abcdef0123456789abcdef01234567"


def test_a_commit_has_a_title_that_names_it() -> None:
    commit = Commit(repository="hello-service", branch="feature/ü", sha=SHA, subject="Fix it")
    assert commit.title == "feature/ü 01234567 Fix it"


@pytest.mark.parametrize(
    ("branch", "shown"), [("a\u202eb", "a b"), ("\u2029a", "a"), ("\u3000", "'\\u3000'")]
)
def test_a_branch_is_shown_so_that_it_turns_and_breaks_nothing(branch: str, shown: str) -> None:
    commit = Commit(repository="hello-service", branch=branch, sha=SHA, subject="Fix it")
    assert commit.branch == branch
    assert commit.title == f"{shown} 01234567 Fix it"


def test_a_commit_that_is_still_to_be_looked_up_is_called_head() -> None:
    assert Commit(repository="hello-service", branch="master").title == "master head"


def test_every_branch_stands_in_a_commit_of_a_deployment() -> None:
    assert Commit(repository="hello-service", branch="*").branch == "*"


@pytest.mark.parametrize(
    "wrong",
    [
        {"repository": "../hello"},
        {"branch": "--upload-pack=x"},
        {"branch": ""},
        {"sha": "HEAD"},
        {"sha": SHA[:8]},
        {"color": "red"},
    ],
)
def test_a_commit_of_anything_unchecked_cannot_be_made(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Commit.model_validate({"repository": "hello", "branch": "master", "sha": SHA} | wrong)


def test_the_subject_and_the_author_are_cut_to_one_line() -> None:
    commit = Commit(
        repository="a", branch="b", subject="Fix\ud800\n\nmore", author="A\x1b" + "x" * 200
    )
    assert commit.subject == "Fix"
    assert len(commit.author) == 100
    assert commit.author.startswith("A x")


def test_a_commit_does_not_change_once_it_is_made() -> None:
    with pytest.raises(ValidationError):
        Commit(repository="a", branch="b").branch = "c"  # type: ignore[misc]
