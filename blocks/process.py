"""The process of a run: it ends with its worker, so that no orphan builds, tests or deploys on."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from setproctitle import setproctitle

WORKER_PID = "SAMEBITS_WORKER_PID"
"""The variable by which a worker tells the processes of its runs who it is"""

_RUN_ID = "PREFECT__FLOW_RUN_ID"
_PR_SET_PDEATHSIG = 1


def end_with_worker() -> None:
    """Have the kernel kill this process when its worker dies; only Linux can do so.

    Called early by each process that imports the flows. It does nothing but in the process of a
    run that `samebits work` has started. Prefect's worker starts these from its main thread: the
    signal comes with the end of the thread that forked, not of the process.
    """
    worker = os.environ.get(WORKER_PID, "")
    if sys.platform != "linux" or not in_run() or not worker.isdecimal():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if int(worker) not in _ancestors():  # it died before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def in_run() -> bool:
    """Whether this process is that of a run."""
    return _RUN_ID in os.environ


def is_run(pid: int, run_id: str) -> bool:
    """Whether a process of this host is that of a run; where this cannot be seen, if it lives."""
    if sys.platform != "linux":
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    # One that was started for its run has it in its environment; one that was forked, in its title.
    started = f"{_RUN_ID}={run_id}".encode() in environment.split(b"\0")
    return started or title.strip(b"\0") == _title(run_id).encode()


def call_itself(run_id: str = "") -> None:
    """Have `ps` call this process, which was forked, by its run; without one, its parent."""
    setproctitle(_title(run_id) if run_id else "samebits parent of the runs")


def _title(run_id: str) -> str:
    return f"samebits run {run_id}"


def _ancestors() -> list[int]:
    """The parent of this process, its parent, and so on."""
    found: list[int] = []
    parent = os.getppid()
    while parent and parent not in found:
        found.append(parent)
        try:
            # The name in brackets may hold anything, also blanks and brackets.
            stat = Path(f"/proc/{parent}/stat").read_text()
        except OSError:
            break
        parent = int(stat.rpartition(")")[2].split()[1])
    return found
