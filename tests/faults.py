"""The fault suite in full, on one engine: its parts one after the other, then one table.

usage: python -m tests.faults [TESTS…]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from blocks.engine import DockerHost, Engine
from deployments import host_images
from deployments.engine_start import running_engine
from domain.errors import SamebitsError
from tests import own_network
from tests.fault_plugin import TABLE, TRIALS, kept, rows, table

FULL = ["-m", "fault", "--full"]
PYTEST = [sys.executable, "-m", "pytest", *FULL]
# Whole systems last, each in a process of its own: what they kill is nobody else's.
PARTS = (
    ["tests/domain", "tests/blocks", "tests/deployments"],
    ["tests/e2e", f"--ignore={own_network.TESTS}"],
)
_NOTHING_CHOSEN = 5


def main(tests: list[str]) -> int:
    """Run them; returns 0 only if every trial held."""
    if not tests:
        TABLE.unlink(missing_ok=True)
        TRIALS.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder, running_engine(Path(folder, "dockerd.log")):
        with Engine(DockerHost()) as connection:
            host_images.ensure_images(connection)
        parts = [[*PYTEST, *tests]] if tests else [[*PYTEST, *part] for part in PARTS]
        if not tests:
            parts.append(own_network.command(FULL))
        codes = [subprocess.run(part, check=False).returncode for part in parts]
    trials = kept().values()
    print(f"\n{table(rows(trials))}\n\n{TABLE} holds all of it.")
    failed = [code for code in codes if code not in (0, _NOTHING_CHOSEN)]
    return int(bool(failed) or not trials or any(trial.reason for trial in trials))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SamebitsError as error:
        sys.exit(str(error))
