"""Every test but the pure ones, on one engine: the end-to-end tests beside all others.

usage: python -m tests.everything
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from blocks.engine import DockerHost, Engine
from deployments import host_images
from deployments.engine_start import start_engine
from domain.errors import SamebitsError

PYTEST = [sys.executable, "-m", "pytest", "--durations=5"]
BESIDE = (["tests/blocks", "tests/deployments"], ["tests/aws"])
"""What runs beside the end-to-end tests; AWS by itself, since moto's state is a process's"""


def main() -> int:
    """Run them; returns 0 only if all of them passed."""
    with tempfile.TemporaryDirectory() as folder:
        engine = start_engine(dict(os.environ), Path(folder, "dockerd.log"))
        try:
            with Engine(DockerHost()) as connection:
                host_images.ensure_images(connection)
            beside = [_started(paths, Path(folder, f"{n}.log")) for n, paths in enumerate(BESIDE)]
            codes = [subprocess.run([*PYTEST, "tests/e2e"], check=False).returncode]
            for process, log in beside:
                codes.append(process.wait())
                print(log.read_text())
        finally:
            if engine:
                engine.stop(30)
    return int(any(codes))


def _started(paths: list[str], log: Path) -> tuple["subprocess.Popen[bytes]", Path]:
    with log.open("wb") as output:
        return subprocess.Popen([*PYTEST, *paths], stdout=output, stderr=output), log


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SamebitsError as error:
        sys.exit(str(error))
