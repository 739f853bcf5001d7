"""Whose run is next."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from domain.turns import take_turns

repositories = st.sampled_from(["ours", "theirs", "another", ""])


def waiting(*names: str) -> list[tuple[str, str]]:
    return [(name, f"{name} {number}") for number, name in enumerate(names)]


def test_a_single_push_goes_before_the_rest_of_anothers_burst() -> None:
    burst = waiting(*["theirs"] * 50, "ours")
    assert take_turns(burst, ["theirs"], {"theirs": 1})[0] == "ours 50"
    assert take_turns(burst, ["theirs", "theirs"], {"theirs": 2})[0] == "ours 50"


def test_it_also_does_so_where_nothing_runs_in_this_moment() -> None:
    burst = waiting(*["theirs"] * 50, "ours")
    assert take_turns(burst, [], {"theirs": 9})[0] == "ours 50"


def test_of_one_repository_the_oldest_run_is_the_first() -> None:
    assert take_turns(waiting("ours", "ours", "ours"), ["ours"], {"ours": 3}) == [
        "ours 0",
        "ours 1",
        "ours 2",
    ]


def test_repositories_that_wait_side_by_side_take_turns() -> None:
    order = take_turns(waiting("a", "a", "a", "b", "b", "b"), [], {})
    assert [run[0] for run in order] == ["a", "b", "a", "b", "a", "b"]


@given(st.lists(repositories), st.lists(repositories, max_size=4), st.integers(1, 8))
def test_each_run_has_its_turn_once_and_nobody_waits_while_another_has_two_more(
    names: list[str], going: list[str], slots: int
) -> None:
    order = take_turns(waiting(*names), going, {})
    assert sorted(order) == sorted(run for _, run in waiting(*names))
    taken = order[:slots]
    busy = Counter(going) + Counter(run.rpartition(" ")[0] for run in taken)
    for left in order[slots:]:
        name = left.rpartition(" ")[0]
        for run in taken:
            assert busy[run.rpartition(" ")[0]] <= max(busy[name] + 1, Counter(going)[name] + 1)
