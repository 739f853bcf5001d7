"""The fault suite: tests marked with `fault` are trials of a named fault.

`pytest` runs the quick form, few trials of each; `pytest -m fault --full` the full form, prints
what held, and keeps it in `.integrations/faults.json`. Runs of parts add to that file.
"""

import json
import os
import random
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

TABLE = Path(".integrations/faults.json")
"""What `make faults` leaves: a row for each fault"""
TRIALS = Path(".integrations/fault-trials.json")
"""Each trial by its test's ID, so that a part that is run again replaces its own trials only"""
_NOT_RUN = "it was not run to its end"


def fault(name: str, *, trials: int = 1, quick: int = 1) -> pytest.MarkDecorator:
    """Mark a test as a trial of a fault: it is run `quick` times, with --full `trials` times.

    The fixture `trial` is the number of the trial, from 0 on, and `chance` its random numbers.
    Without a quick form (0) it is run with --full only. Tests that share a name share a row. One
    whose form is a matter of size asks the fixture `full`.
    """
    return pytest.mark.fault(name, trials=trials, quick=quick)


@dataclass(frozen=True)
class Trial:
    """How one trial of a fault ended; without a reason it held."""

    fault: str
    reason: str


def rows(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """The table: for each fault its trials, how many held, and why the others did not."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.fault, []).append(trial)
    return [
        {
            "fault": name,
            "trials": len(those),
            "held": sum(not trial.reason for trial in those),
            "failed": [trial.reason for trial in those if trial.reason],
        }
        for name, those in found.items()
    ]


def table(found: list[dict[str, Any]]) -> str:
    """The rows for people, the first reasons of each failure below it."""
    width = max((len(row["fault"]) for row in found), default=0)
    lines = [f"{'fault':{width}}  trials  held"]
    for row in found:
        sign = "" if row["held"] == row["trials"] else "  ✗"
        lines.append(f"{row['fault']:{width}}  {row['trials']:6}  {row['held']:4}{sign}")
        lines += [f"    {reason}" for reason in row["failed"][:5]]
    return "\n".join(lines)


def kept(path: Path = TRIALS) -> dict[str, Trial]:
    """The trials of earlier runs, by the ID of their test."""
    if not path.exists():
        return {}
    return {test: Trial(**trial) for test, trial in json.loads(path.read_text()).items()}


def keep(trials: dict[str, Trial], folder: Path) -> list[dict[str, Any]]:
    """Write the trials down, beside those of earlier runs; returns the whole table."""
    path = folder / TRIALS
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        every = kept(path) | trials
        found = rows(every.values())
        _write(path, {test: asdict(trial) for test, trial in every.items()})
        _write(folder / TABLE, found)
    return found


def _write(path: Path, content: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    fresh.replace(path)


# -- pytest's hooks ---------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fault suite")
    group.addoption("--full", action="store_true", help="run the full form of each fault")
    group.addoption("--seed", default="", help="begin of the random numbers; printed above")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name, trials, quick): a trial of the fault suite")
    full = config.getoption("full")
    if not config.getoption("seed"):
        config.option.seed = os.urandom(4).hex() if full else "quick"
    config.pluginmanager.register(_Suite(config, full=full), "fault suite")


def pytest_report_header(config: pytest.Config) -> str:
    return f"faults: --seed {config.getoption('seed')}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("fault")
    if mark:
        number = mark.kwargs["trials" if metafunc.config.getoption("full") else "quick"]
        metafunc.fixturenames.append("trial")
        # One without a quick form is left out later: pytest would call it skipped.
        metafunc.parametrize("trial", range(max(number, 1)), indirect=True)


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> int:
    """The number of this trial of a fault, from 0 on."""
    return int(request.param)


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is the full form."""
    return bool(request.config.getoption("full"))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test: the same again with the same --seed."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.nodeid}")


class _Suite:
    """The trials of this run."""

    def __init__(self, config: pytest.Config, *, full: bool) -> None:
        self._folder, self._full = config.rootpath, full
        self._trials: dict[str, Trial] = {}
        self._names: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        marks = {item: item.get_closest_marker("fault") for item in items}
        if not self._full:
            without = [item for item, mark in marks.items() if mark and not mark.kwargs["quick"]]
            items[:] = [item for item in items if item not in without]
            config.hook.pytest_deselected(items=without)
        self._names = {item.nodeid: mark.args[0] for item, mark in marks.items() if mark}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        chosen = [item.nodeid for item in session.items if item.nodeid in self._names]
        self._trials = {
            test: Trial(self._names[test], f"{_short(test)}: {_NOT_RUN}") for test in chosen
        }
        if self._writes(session.config):  # also what kills this process is a trial that failed
            keep(self._trials, self._folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        if test not in self._trials:
            return
        name = self._names[test]
        if not report.passed:
            self._trials[test] = Trial(name, f"{_short(test)}: {_reason(report)}")
        elif report.when == "call":
            self._trials[test] = Trial(name, "")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._writes(session.config):
            return
        keep(self._trials, self._folder)
        if any(trial.reason for trial in self._trials.values()) and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED  # a trial that was skipped

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        if self._writes(config):
            terminalreporter.section("fault suite")
            terminalreporter.write_line(table(rows(self._trials.values())))

    def _writes(self, config: pytest.Config) -> bool:
        return bool(self._full and self._trials and not config.option.collectonly)


def _short(test: str) -> str:
    return test.rpartition("::")[2]


def _reason(report: pytest.TestReport) -> str:
    """The first line of why a trial did not hold."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash:
        text = str(crash.message)
    elif isinstance(report.longrepr, tuple):  # a skip
        text = report.longrepr[2]
    else:
        text = report.longreprtext or report.outcome
    when = "" if report.when == "call" else f"{report.when}: "
    return when + next((line for line in text.splitlines() if line.strip()), "")[:300]


if __name__ == "__main__":
    print(table(rows(kept().values())))
    sys.exit(any(trial.reason for trial in kept().values()))
