"""Deploys go forward in git's history, or follow a branch that was pushed by force."""

import pytest

from domain.commit import Commit
from domain.errors import CommitNotOnBranch, ReasonMissing, Superseded
from domain.order import Standing, check_order, check_reason

MINE, RUNNING, HEAD = "a" * 40, "b" * 40, "c" * 40
COMMIT = Commit(repository="hello", branch="master", sha=MINE)
NEWER = Standing(head=MINE, on_branch=True, running_on_branch=True, ahead=True)
OLDER = Standing(head=RUNNING, on_branch=True, running_on_branch=True, behind=True)


@pytest.mark.parametrize("running", ["", MINE])
def test_a_commit_goes_where_nothing_runs_or_where_it_runs_already(running: str) -> None:
    check_order(COMMIT, running, Standing(head=HEAD, on_branch=True), was_here=True)


def test_a_commit_takes_the_place_of_an_older_one() -> None:
    check_order(COMMIT, RUNNING, NEWER, was_here=True)
    check_order(COMMIT, RUNNING, NEWER.model_copy(update={"head": HEAD}), was_here=True)


def test_an_older_commit_gives_way_and_says_to_which() -> None:
    with pytest.raises(Superseded, match=f"gave way to {RUNNING[:8]}") as caught:
        check_order(COMMIT, RUNNING, OLDER, was_here=True)
    assert caught.value.by == RUNNING


def test_a_commit_beside_the_one_that_runs_waits_for_the_merge_of_both() -> None:
    beside = Standing(head=HEAD, on_branch=True, running_on_branch=True)
    with pytest.raises(Superseded, match="not got that commit"):
        check_order(COMMIT, RUNNING, beside, was_here=True)


def test_a_commit_that_was_pushed_away_gives_way_to_the_head() -> None:
    with pytest.raises(Superseded, match="by force") as caught:
        check_order(COMMIT, "", Standing(head=HEAD, on_branch=False), was_here=True)
    assert caught.value.by == HEAD


def test_a_commit_of_a_branch_that_is_gone_is_not_deployed() -> None:
    with pytest.raises(CommitNotOnBranch, match="Nothing was deployed"):
        check_order(COMMIT, "", Standing(head="", on_branch=False), was_here=True)


@pytest.mark.parametrize("behind", [True, False])
def test_the_head_of_a_branch_that_was_pushed_by_force_is_followed(behind: bool) -> None:
    forced = Standing(head=MINE, on_branch=True, behind=behind)
    check_order(COMMIT, RUNNING, forced, was_here=True)
    with pytest.raises(Superseded) as caught:
        check_order(COMMIT, RUNNING, forced.model_copy(update={"head": HEAD}), was_here=True)
    assert caught.value.by == HEAD


def test_a_branch_does_not_take_back_what_a_person_has_promoted_from_another() -> None:
    promoted = Standing(head=MINE, on_branch=True, behind=True)
    with pytest.raises(Superseded) as caught:
        check_order(COMMIT, RUNNING, promoted, was_here=False)
    assert caught.value.by == RUNNING


def test_a_person_goes_forward_without_a_word_and_back_with_a_reason() -> None:
    check_reason(COMMIT, RUNNING, NEWER, "")
    check_reason(COMMIT, "", OLDER, "")
    check_reason(COMMIT, RUNNING, OLDER, "it crashes")
    with pytest.raises(ReasonMissing, match="Say why"):
        check_reason(COMMIT, RUNNING, OLDER, "  ")
