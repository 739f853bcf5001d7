"""`make demo TARGET=aws`: the demo on ECR and ECS, of the tests' stand-in for AWS.

usage: python -m tests.aws.demo
"""

import sys
import tempfile
from pathlib import Path

from blocks.engine import DockerHost
from deployments.demo import run_demo
from deployments.engine_start import running_engine
from deployments.settings import read_settings
from domain.errors import SamebitsError
from tests.aws.stacks import aws_stacks
from tests.conftest import remove_system


def main() -> bool:
    """Play it on a system of its own, of which nothing is left; True if all of it held."""
    with tempfile.TemporaryDirectory(prefix="samebits-") as home:
        own = {"home": Path(home), "name": "samebits-aws-demo"}
        settings = read_settings().model_copy(update=own)
        # What the system leaves is removed by the engine, which must not end with the system.
        with running_engine(Path(home, "dockerd.log")):
            try:
                held = run_demo(settings, aws_stacks)
            finally:
                remove_system(DockerHost(), settings)
        print("It was played on a stand-in for AWS, of which nothing is left: docs/aws.md.")
        return held


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except SamebitsError as error:
        sys.exit(str(error))
