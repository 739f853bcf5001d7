"""What the head of a branch calls for."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from domain.heads import (
    UNKNOWN,
    Arrival,
    Call,
    Known,
    is_asked,
    is_forgotten,
    is_recent,
    judge,
    only_noted,
)
from domain.routing import Route

A, B, C = "a" * 40, "b" * 40, "c" * 40


def came(number: int, sha: str, state: str = "dispatched", *, repeated: bool = False) -> Arrival:
    return Arrival(number, sha, state, f"run {sha[0]}", repeated)


def at(sha: str, mark: int) -> Known:
    return Known(sha, has_run=True, mark=mark)


def leads(branch: str, stack: str | None) -> Route:
    return Route(repository="hello", branch=branch, stack=stack, deployment_id=uuid4())


OWN, OTHERS = leads("master", "stage"), leads("*", None)


def test_a_head_that_nobody_delivered_wants_a_run() -> None:
    assert judge(A, UNKNOWN, [], 0).call is Call.RUN
    assert judge(B, at(A, 1), [came(1, A)], 1).call is Call.RUN


def test_a_head_whose_delivery_started_nothing_wants_a_run_too() -> None:
    assert judge(A, UNKNOWN, [came(1, A, "ignored")], 1).call is Call.RUN


def test_a_head_whose_delivery_waits_is_left_to_it() -> None:
    assert judge(A, UNKNOWN, [came(1, A, "waiting")], 1).call is Call.WAIT


def test_a_head_that_was_delivered_is_only_noted() -> None:
    found = judge(B, at(A, 1), [came(1, A), came(2, B), came(3, B, repeated=True)], 3)
    assert found.call is Call.NOTE


def test_a_known_head_calls_for_nothing_also_once_its_delivery_is_forgotten() -> None:
    assert judge(A, at(A, 7), [], 9).call is Call.NOTHING


def test_a_head_that_was_only_noted_wants_a_run_when_it_is_asked_again() -> None:
    assert judge(A, Known(A, has_run=False, mark=3), [], 3).call is Call.RUN


def test_a_branch_that_is_pushed_back_is_followed_once_its_delivery_says_that_there_is_a_run() -> (
    None
):
    here = [came(1, A), came(2, B)]
    assert judge(A, at(B, 2), here, 2).call is Call.RUN
    found = judge(A, at(B, 2), [*here, came(3, A, repeated=True)], 3)
    assert (found.call, found.others, found.run_id) == (Call.FOLLOW, (B,), "run a")


def test_there_and_back_and_there_again_is_followed_each_time() -> None:
    arrivals = [came(1, A), came(2, B), came(3, A, repeated=True)]
    assert judge(B, at(A, 3), arrivals, 3).call is Call.RUN
    again = [*arrivals, came(4, B, repeated=True)]
    assert judge(B, at(A, 3), again, 4).call is Call.FOLLOW


def test_a_commit_that_came_and_went_between_two_looks_is_seen() -> None:
    arrivals = [came(1, A), came(2, B), came(3, A, repeated=True)]
    found = judge(A, at(A, 1), arrivals, 3)
    assert (found.call, found.others) == (Call.FOLLOW_UNLESS_OLDER, (B,))
    new = judge(B, at(A, 1), [came(1, A), came(2, B), came(3, C), came(4, B, repeated=True)], 4)
    assert (new.call, new.others) == (Call.FOLLOW_UNLESS_OLDER, (C,))


def test_what_came_after_git_was_asked_is_newer_than_its_answer() -> None:
    assert judge(A, at(A, 1), [came(1, A), came(2, B)], 1).call is Call.NOTHING


def test_a_repeated_delivery_of_an_older_commit_is_no_move() -> None:
    arrivals = [came(1, A), came(2, B), came(3, A, repeated=True)]
    assert judge(B, at(B, 2), arrivals, 3).call is Call.NOTHING


def test_a_head_of_which_nothing_is_known_but_its_run_is_only_noted() -> None:
    assert judge(A, UNKNOWN, [came(1, A, repeated=True)], 1).call is Call.NOTE


def test_branches_with_a_deployment_of_their_own_are_always_asked_others_when_they_moved() -> None:
    assert is_asked(A, at(A, 1), OWN)
    assert not is_asked(A, at(A, 1), OTHERS)
    assert is_asked(B, at(A, 1), OTHERS)
    assert not is_asked(B, at(A, 1), None)


def test_only_at_first_are_old_heads_of_other_branches_left_as_they_are() -> None:
    assert only_noted(UNKNOWN, OTHERS, first=True)
    assert not only_noted(UNKNOWN, OTHERS, first=False)
    assert not only_noted(UNKNOWN, OWN, first=True)
    assert not only_noted(at(A, 1), OTHERS, first=True)


@pytest.mark.parametrize(("hours", "recent"), [(0, True), (23, True), (25, False), (-5, True)])
def test_a_commit_of_the_last_day_is_recent(hours: int, recent: bool) -> None:
    now = datetime.now(UTC)
    assert is_recent((now - timedelta(hours=hours)).isoformat(), now) is recent


def test_a_branch_that_is_gone_is_forgotten_unless_it_leads_to_a_stack() -> None:
    assert is_forgotten("feature", ["master"], OTHERS)
    assert is_forgotten("feature", [], None)
    assert not is_forgotten("feature", ["feature"], OTHERS)
    assert not is_forgotten("master", [], OWN)
