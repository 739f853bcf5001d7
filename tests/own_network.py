"""Tests that kill their engine, in a network namespace of their own.

usage: python -m tests.own_network [PYTEST'S ARGUMENTS…]
"""

import os
import shutil
import subprocess
import sys

from domain.errors import MissingTool

MARK = "SAMEBITS_TESTS_OWN_NETWORK"
"""In the environment of the tests there"""
TESTS = "tests/e2e/own_network"


def command(arguments: list[str]) -> list[str]:
    """What runs these tests; raises MissingTool where no namespace can be made."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("unshare"):
        raise MissingTool(
            "Tests that kill their engine need a network namespace of their own.",
            hint="They run on Linux, as root, with unshare (util-linux).",
        )
    inside = 'ip link set lo up && exec "$0" -m pytest "$@"'
    return [
        *("env", f"{MARK}=1", "unshare", "--net", "--mount", "sh", "-c", inside),
        *(sys.executable, TESTS, *arguments),
    ]


if __name__ == "__main__":
    try:
        sys.exit(subprocess.run(command(sys.argv[1:]), check=False).returncode)
    except MissingTool as error:
        sys.exit(str(error))
