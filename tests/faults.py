"""The fault suite in full, then one table of it.

usage: python -m tests.faults [TESTS…]
"""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blocks.engine import DockerHost, Engine
from deployments import host_images
from deployments.engine_start import running_engine
from domain.errors import SamebitsError
from tests import own_network
from tests.fault_plugin import TABLE, TRIALS, kept, rows, table
from tests.lanes import Lane

FULL = ["-m", "fault", "--full"]
PYTEST = [sys.executable, "-m", "pytest", *FULL]
# What is measured against the clock comes first, alone.
FIRST = [*PYTEST, "tests/domain", "tests/blocks", "tests/deployments"]
_NOTHING_CHOSEN = 5


def main(tests: list[str]) -> int:
    """Run them; returns 0 only if every trial held."""
    lanes = [] if tests else _lanes()
    if not tests:
        TABLE.unlink(missing_ok=True)
        TRIALS.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder, running_engine(Path(folder, "dockerd.log")):
        with Engine(DockerHost()) as connection:
            host_images.ensure_images(connection)
        first = [*PYTEST, *tests] if tests else FIRST
        codes = [subprocess.run(first, check=False).returncode, *_run(lanes, Path(folder))]
    trials = kept().values()
    print(f"\n{table(rows(trials))}\n\n{TABLE} holds all of it.")
    failed = [code for code in codes if code not in (0, _NOTHING_CHOSEN)]
    return int(bool(failed) or not trials or any(trial.reason for trial in trials))


def _lanes() -> list[list[list[str]]]:
    """Whole systems, which mostly wait, in two lanes; what each kills is its own.

    Raises MissingTool: before an hour has passed, not after it.
    """
    return [
        [[*PYTEST, "tests/e2e/test_run_faults.py"]],
        [[*PYTEST, "tests/e2e/test_power_cuts.py"], own_network.command(FULL)],
    ]


def _run(lanes: list[list[list[str]]], folder: Path) -> list[int]:
    """The exit codes of all that runs in the lanes."""

    def run(lane: list[list[str]]) -> list[int]:
        return [Lane(part, folder / f"{id(part)}.log").wait() for part in lane]

    with ThreadPoolExecutor() as pool:
        return [code for codes in pool.map(run, lanes) for code in codes]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SamebitsError as error:
        sys.exit(str(error))
