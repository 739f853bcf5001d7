"""Every test but the pure ones, on one engine: the end-to-end tests, and beside them the others.

usage: python -m tests.everything
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from blocks.engine import DockerHost, Engine
from deployments import host_images
from deployments.engine_start import running_engine
from domain.errors import SamebitsError
from tests import own_network
from tests.lanes import Lane

PYTEST = [sys.executable, "-m", "pytest", "--durations=5"]
# The end-to-end tests take the longest, and so come first where the processor is short.
YIELDING = ["nice", "-n", "10", *PYTEST]
# Half of them mostly wait, for what becomes of what they kill, or for what starts slowly; the other
# half runs meanwhile.
_NAMES = ("run_faults", "own_network", "up", "aws", "self")
WAITING = [f"tests/e2e/test_{name}.py" for name in _NAMES]
BESIDE = ([*PYTEST, *WAITING], [*YIELDING, "tests/aws"])
ELSEWHERE = [*WAITING, own_network.TESTS]
FIRST = [*PYTEST, "tests/e2e", *(f"--ignore={tests}" for tests in ELSEWHERE)]
THEN = [*PYTEST, "tests/blocks", "tests/deployments"]


def main() -> int:
    """Run them; returns 0 only if all of them passed."""
    with tempfile.TemporaryDirectory() as folder, running_engine(Path(folder, "dockerd.log")):
        with Engine(DockerHost()) as connection:
            host_images.ensure_images(connection)
        beside = [
            Lane(tests, Path(folder, f"beside-{n}"), os.environ) for n, tests in enumerate(BESIDE)
        ]
        codes = list[int]()
        try:
            for tests in (FIRST, THEN):
                codes.append(subprocess.run(tests, check=False).returncode)
        finally:  # they need the engine to their end, also where this is interrupted
            codes += [one.wait() for one in beside]
    return max(codes, key=abs)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SamebitsError as error:
        sys.exit(str(error))
