"""What is written on a run: two who write first and look then cannot miss each other."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.marks import (
    begins_to_deploy,
    deploys_tag,
    gives_way,
    has_begun_to_deploy,
    restarted,
    restarts,
    superseded_by,
)
from tests.wild import quick, shas, text

SHA = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"
attempts = st.integers(1, 30)


@dataclass
class Run:
    """A run as Prefect keeps it, and what becomes of it."""

    tags: list[str] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    deploys: bool = False
    stopped: bool = False


def superseder(run: Run) -> Iterator[None]:
    run.labels |= gives_way(1, SHA)
    yield
    deploys = has_begun_to_deploy(run.tags, 1)
    yield
    run.stopped = not deploys
    yield


def deploy_step(run: Run) -> Iterator[None]:
    run.tags = begins_to_deploy(run.tags, 1)
    yield
    by = superseded_by(run.labels, 1)
    yield
    run.deploys = not by
    yield


@pytest.mark.parametrize("turns", list(combinations(range(6), 3)))
def test_in_no_order_of_their_steps_a_run_that_deploys_is_stopped(turns: tuple[int, ...]) -> None:
    run = Run()
    both = superseder(run), deploy_step(run)
    for number in range(6):
        next(both[number in turns])
    assert not (run.deploys and run.stopped)


@quick
@given(st.lists(text), attempts, attempts)
def test_the_tag_of_a_try_replaces_those_of_earlier_ones_and_no_other(
    tags: list[str], earlier: int, attempt: int
) -> None:
    marked = begins_to_deploy(begins_to_deploy(tags, earlier), attempt)
    assert has_begun_to_deploy(marked, attempt)
    assert marked.count(deploys_tag(attempt)) == 1
    assert earlier == attempt or not has_begun_to_deploy(marked, earlier)
    assert [tag for tag in tags if not tag.startswith("deploys:")] == marked[:-1]


@quick
@given(attempts, attempts, shas)
def test_a_try_gives_way_and_its_retry_does_not(attempt: int, other: int, sha: str) -> None:
    labels = gives_way(attempt, sha)
    assert superseded_by(labels, attempt) == sha
    assert other == attempt or superseded_by(labels, other) == ""


def test_a_run_without_marks_neither_gives_way_nor_was_started_again() -> None:
    assert superseded_by({}, 1) == ""
    assert superseded_by(gives_way(1, SHA) | gives_way(1, ""), 1) == ""
    assert restarts({}) == 0
    assert restarts(restarted(2)) == 2


@quick
@given(st.one_of(text, st.none(), st.integers(), st.floats(), st.booleans()), attempts)
def test_whatever_stands_in_the_labels_they_can_be_read(value: Any, attempt: int) -> None:
    labels = dict.fromkeys([*gives_way(1, SHA), *restarted(1)], value)
    assert isinstance(superseded_by(labels, attempt), str)
    assert restarts(labels) >= 0
