"""Where this system keeps its files on a host."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def data_home() -> Path:
    """The folder of mirrors, inbox and logs: `SAMEBITS_HOME`, else `.samebits` in this folder."""
    return Path(os.environ.get("SAMEBITS_HOME") or ".samebits").absolute()


def system_name() -> str:
    """What this system is called on an engine that it may share with others: `SAMEBITS_NAME`."""
    return os.environ.get("SAMEBITS_NAME") or "samebits"


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Hold the lock of this name; the runs of this host take turns. It ends with its holder."""
    folder = data_home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield
