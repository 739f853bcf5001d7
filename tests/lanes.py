"""Test processes that run beside each other."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


class Lane:
    """A command in a process of its own, whose output is printed once it has ended."""

    def __init__(self, argv: list[str], log: Path, environment: Mapping[str, str] = os.environ):
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(argv, env=environment, stdout=output, stderr=output)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = self._process.wait()
        print(self._log.read_text(), flush=True)
        return code
