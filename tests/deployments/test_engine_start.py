"""Pid files of an engine that was killed."""

import os
from pathlib import Path

import pytest

from deployments.engine_start import forget_dead

ME = Path("/proc/self/comm")
pytestmark = pytest.mark.skipif(not ME.exists(), reason="only Linux has /proc")


@pytest.mark.parametrize("number", [str(os.getpid()), f"{os.getpid()}\n"])
def test_the_pid_file_of_a_program_that_runs_stays(tmp_path: Path, number: str) -> None:
    file = tmp_path / "docker.pid"
    file.write_text(number)
    forget_dead(file, ME.read_text().strip())
    assert file.exists()


@pytest.mark.parametrize(
    ("number", "program"),
    [(str(2**22 + 1), "dockerd"), (str(os.getpid()), "dockerd"), ("", "dockerd"), ("x", "dockerd")],
    ids=["dead", "number of another program", "empty", "no number"],
)
def test_the_pid_file_of_a_program_that_is_dead_goes(
    tmp_path: Path, number: str, program: str
) -> None:
    file = tmp_path / "docker.pid"
    file.write_text(number)
    forget_dead(file, program)
    assert not file.exists()


def test_no_pid_file_is_fine(tmp_path: Path) -> None:
    forget_dead(tmp_path / "none.pid", "dockerd")
