"""ECR with unmodified endpoints: its real host names, TLS on port 443, no `endpoint_url`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.provisioning import PROJECT

# The process that unshare starts is the first of its pid namespace: with it, all others end.
ALONE = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMIT_SECONDS = 60


def alone(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program in namespaces of its own, with nothing of this process's environment."""
    environment = {
        "PATH": PATH,
        "HOME": "/nonexistent",
        "PYTHONWARNINGS": "ignore",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PREFECT_HOME": "/run/prefect",
    }
    return subprocess.run(
        [*ALONE, *argv],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@pytest.fixture
def namespaces() -> None:
    """Skip, with the reason, where this machine does not let the proof be made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("ECR's real names need namespaces of their own: only as root on Linux")
    for program in ("unshare", "mount", "dockerd", "containerd", "docker-registry"):
        if not shutil.which(program, path=PATH):
            pytest.skip(f"ECR's real names need {program}, which is not installed")
    tried = alone("mount", "-t", "tmpfs", "tmpfs", "/run")
    if tried.returncode:
        pytest.skip(f"ECR's real names need namespaces, which are refused: {tried.stderr.strip()}")


@pytest.mark.timeout(2 * LIMIT_SECONDS)
def test_an_image_is_published_and_pulled_under_the_real_name_of_ecr(namespaces: None) -> None:
    hosts = Path("/etc/hosts").read_bytes()
    shown = alone(sys.executable, "-m", "tests.aws.real_names")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    [reference] = shown.stdout.splitlines()
    assert reference.startswith("123456789012.dkr.ecr.us-east-1.amazonaws.com/hello@sha256:")
    assert Path("/etc/hosts").read_bytes() == hosts
