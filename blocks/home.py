"""Where this system keeps its files on a host."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from domain.errors import BadInput

LEAST_FREE_MIB = 2048
KEEP_DAYS: float = 30


def data_home() -> Path:
    """The folder of mirrors, inbox and logs: `SAMEBITS_HOME`, else `.samebits` in this folder."""
    return Path(os.environ.get("SAMEBITS_HOME") or ".samebits").absolute()


def system_name() -> str:
    """What this system is called on an engine that it may share with others: `SAMEBITS_NAME`."""
    return os.environ.get("SAMEBITS_NAME") or "samebits"


def least_free_mib() -> int:
    """Free space in MiB below which no build starts: `SAMEBITS_LEAST_FREE_MIB`."""
    return int(_number("SAMEBITS_LEAST_FREE_MIB", LEAST_FREE_MIB))


def keep_days() -> float:
    """How long images of ended runs are kept: `SAMEBITS_KEEP_DAYS`, at most a hundred years."""
    return min(_number("SAMEBITS_KEEP_DAYS", KEEP_DAYS), 36_500)


def _number(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise BadInput(
            f"{name} is {text[:80]!r}, and not a number from 0 on.",
            hint="docs/configuration.md says what it takes.",
        )
    return number


def locks_home() -> Path:
    """The folder of the locks of `one_at_a_time`."""
    return data_home() / "locks"


def mirrors_home() -> Path:
    """The folder of the mirrors, each `REPOSITORY.git`."""
    return data_home() / "mirrors"


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Hold the lock of this name; the runs of this host take turns. It ends with its holder."""
    folder = locks_home()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield
