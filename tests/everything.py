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
BESIDE = ["tests/blocks", "tests/deployments", "tests/aws"]


def main() -> int:
    """Run them; returns 0 only if all of them passed."""
    with tempfile.TemporaryDirectory() as folder:
        engine = start_engine(dict(os.environ), Path(folder, "dockerd.log"))
        try:
            with Engine(DockerHost()) as connection:
                host_images.ensure_images(connection)
            with Path(folder, "beside.log").open("w+") as log:
                beside = subprocess.Popen([*PYTEST, *BESIDE], stdout=log, stderr=log)
                whole = subprocess.run([*PYTEST, "tests/e2e"], check=False).returncode
                code = beside.wait()
                log.seek(0)
                print(log.read())
        finally:
            if engine:
                engine.stop(30)
    return whole or code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SamebitsError as error:
        sys.exit(str(error))
