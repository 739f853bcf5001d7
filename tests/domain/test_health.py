"""From when on something is wrong."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.health import (
    SILENT_SECONDS,
    SKEW_SECONDS,
    age,
    is_overdue,
    is_queued_for_long,
    is_silent,
    is_stuck,
    lasting,
    skew_seconds,
)

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def test_a_worker_is_silent_without_a_heartbeat_for_longer_than_the_limit() -> None:
    assert is_silent(None, NOW)
    assert is_silent(ago(SILENT_SECONDS + 1), NOW)
    assert not is_silent(ago(SILENT_SECONDS), NOW)
    assert not is_silent(ago(-5), NOW)


def test_a_look_at_git_is_overdue_after_three_intervals() -> None:
    assert not is_overdue(ago(540), 180, NOW)
    assert is_overdue(ago(541), 180, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 days"),
    ],
)
def test_a_length_of_time_is_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
    assert age(ago(seconds), NOW) == text


@pytest.mark.parametrize(
    ("state", "most"), [("PENDING", 5), ("CANCELLING", 2), ("RUNNING", 6 * 60)]
)
def test_a_run_is_stuck_in_a_state_that_takes_less_long(state: str, most: int) -> None:
    assert not is_stuck(state, ago(most * 60), NOW)
    assert is_stuck(state, ago(most * 60 + 1), NOW)


def test_a_run_that_waits_for_a_person_or_has_ended_is_not_stuck() -> None:
    for state in ("PAUSED", "COMPLETED", "SCHEDULED"):
        assert not is_stuck(state, ago(10**7), NOW)


def test_a_run_that_is_to_start_later_does_not_wait() -> None:
    assert not is_queued_for_long(ago(-3600), NOW)
    assert not is_queued_for_long(ago(1800), NOW)
    assert is_queued_for_long(ago(1801), NOW)


@given(st.floats(-1e6, 1e6), st.floats(0, 60), st.floats(0, 1))
def test_the_skew_is_never_more_than_the_clocks_differ_and_a_slow_answer_adds_none(
    ahead: float, took: float, answered_after: float
) -> None:
    truly = NOW + timedelta(seconds=took * answered_after)
    date = format_datetime(truly.replace(microsecond=0), usegmt=True)
    shift = timedelta(seconds=ahead)
    found = skew_seconds(date, NOW + shift, NOW + timedelta(seconds=took) + shift)
    assert found is not None
    assert abs(found) <= abs(ahead) + 1e-3
    assert abs(found) >= abs(ahead) - took - 1 - 1e-3


def test_a_clock_that_is_an_hour_wrong_is_noticed_whichever_way() -> None:
    date = format_datetime(NOW, usegmt=True)
    for hours in (1, -1):
        here = NOW + timedelta(hours=hours)
        found = skew_seconds(date, here, here)
        assert found is not None
        assert abs(found) > SKEW_SECONDS
        assert (found > 0) == (hours > 0)


@pytest.mark.parametrize("date", ["", "yesterday", "Wed, 99 Nov 2026"])
def test_an_answer_without_a_clear_date_tells_nothing(date: str) -> None:
    assert skew_seconds(date, NOW, NOW) is None
