"""The process of a run ends with its worker: real processes, no Prefect."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blocks.process import WORKER_PID
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell a child")

RUN = "from blocks.process import end_with_worker; end_with_worker(); print('runs', flush=True)"
WORKER = """
import os, subprocess, sys, time
environment = os.environ | {sys.argv[1]: sys.argv[2] or str(os.getpid())}
run = subprocess.Popen([sys.executable, "-c", sys.argv[3]], env=environment, stdin=0)
print(run.pid, flush=True)
print("ended", run.wait(), flush=True)
time.sleep(60)
"""


def worker(
    run: str, pid: str = "", *, run_id: str = "a-run", variable: str = WORKER_PID
) -> "subprocess.Popen[str]":
    """A process that starts another one, and says its ID and how it ended."""
    environment = os.environ | {"PREFECT__FLOW_RUN_ID": run_id}
    if not run_id:
        del environment["PREFECT__FLOW_RUN_ID"]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, variable, pid, run],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def lives(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_run_dies_with_its_worker_however_that_dies() -> None:
    with worker(f"{RUN}; import time; time.sleep(60)") as process:
        run = int(said(process))
        assert said(process) == "runs"
        process.kill()
        wait_until(lambda: not lives(run), 5, "the run is dead")


def test_a_run_whose_worker_died_before_it_was_ready_does_not_begin() -> None:
    with worker(RUN, pid=str(2**22 + 1)) as process:
        said(process)
        assert said(process) == f"ended {-signal.SIGKILL}"
        process.kill()


@pytest.mark.parametrize("without", ["run", "worker"])
def test_what_is_not_the_run_of_such_a_worker_outlives_its_parent(without: str) -> None:
    run_id, variable = ("", WORKER_PID) if without == "run" else ("a-run", "OTHER")
    code = f"{RUN}; import sys; print('still runs', sys.stdin.readline())"
    with worker(code, run_id=run_id, variable=variable) as process:
        said(process)
        assert said(process) == "runs"
        process.kill()
        process.wait()
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
        assert said(process) == "still runs"


def test_the_parent_of_a_parent_may_be_the_worker() -> None:
    between = (
        "import subprocess, sys; "
        f'sys.exit(subprocess.run([sys.executable, "-c", {RUN!r}], check=False).returncode)'
    )
    with worker(between) as process:
        said(process)
        assert [said(process), said(process)] == ["runs", "ended 0"]
        process.kill()
