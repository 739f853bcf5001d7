"""The fault suite counts as held only what was seen to hold."""

import json
from typing import Any

import pytest

pytest_plugins = ["pytester"]

TRIALS = """
import pytest
from tests.fault_plugin import fault

@fault("storm", trials=3, quick=1)
@pytest.mark.parametrize("step", ["build", "test"])
def test_rain(step, trial):
    assert (step, trial) != ("test", 2), "wet\\nthrough"

@fault("storm", trials=2, quick=0)
def test_hail():
    pass

@fault("skipped")
def test_umbrella():
    pytest.skip("no umbrella")

@pytest.fixture
def broken():
    yield
    raise ValueError("left open")

@fault("error")
def test_window(broken):
    pass

def test_that_is_no_trial():
    pass
"""
INTERRUPTED = """
from tests.fault_plugin import fault

@fault("interrupted", trials=3)
def test_a(trial):
    if trial == 1:
        raise KeyboardInterrupt
"""

PLUGINS = ["-p", "tests.fault_plugin", "-p", "no:asyncio", "-p", "no:hypothesispytest"]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Any:
    """Run these tests; returns the exit code, and the rows by their fault."""

    def run(tests: str, *options: str) -> tuple[int, dict[str, Any]]:
        pytester.makepyfile(test_inner=tests)
        code = pytester.inline_run(*PLUGINS, *options, no_reraise_ctrlc=True).ret
        table = pytester.path / ".integrations" / "faults.json"
        found = json.loads(table.read_text()) if table.exists() else []
        return int(code), {row["fault"]: row for row in found}

    return run


def test_the_full_form_counts_each_trial_and_says_why_one_did_not_hold(run: Any) -> None:
    code, rows = run(TRIALS, "-m", "fault", "--full")
    assert code == 1
    assert rows == {
        "storm": {
            "fault": "storm",
            "trials": 8,
            "held": 7,
            "failed": ["test_rain[2-test]: AssertionError: wet"],
        },
        "skipped": {
            "fault": "skipped",
            "trials": 1,
            "held": 0,
            "failed": ["test_umbrella[0]: Skipped: no umbrella"],
        },
        "error": {
            "fault": "error",
            "trials": 1,
            "held": 0,
            "failed": ["test_window[0]: teardown: ValueError: left open"],
        },
    }


def test_a_part_that_is_run_again_replaces_its_own_trials_only(run: Any) -> None:
    run(TRIALS, "-m", "fault", "--full")
    code, rows = run(TRIALS.replace('"test", 2', '"test", 9'), "--full", "-k", "rain")
    assert code == 0
    assert (rows["storm"]["trials"], rows["storm"]["held"]) == (8, 8)
    assert rows["skipped"]["held"] == 0


def test_a_skipped_trial_is_a_failure_of_the_full_form(run: Any) -> None:
    assert run(TRIALS, "--full", "-k", "umbrella")[0] == 1


def test_what_was_interrupted_has_not_held(run: Any) -> None:
    _, rows = run(INTERRUPTED, "--full")
    assert rows["interrupted"]["held"] == 1
    assert len(rows["interrupted"]["failed"]) == 2


def test_the_quick_form_has_its_own_number_and_writes_nothing(
    run: Any, pytester: pytest.Pytester
) -> None:
    assert run(TRIALS, "-k", "rain or hail or no_trial") == (0, {})
    pytester.inline_run(*PLUGINS, "-k", "rain or hail or no_trial").assertoutcome(passed=3)
