"""The disks of this host: free space, and what this system leaves in its data folder."""

import shutil
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from blocks.home import locks_home, mirrors_home
from domain.errors import DiskLow

_OLD_LOCK_SECONDS = 24 * 3600


def free_mib(path: Path) -> int:
    """Free space in MiB where a path is, or will be made."""
    return free_bytes(path) >> 20


def free_bytes(path: Path) -> int:
    """Free space in bytes where a path is, or will be made."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(there).free


def check_space(folders: Iterable[Path | None], least_mib: int) -> None:
    """Return if each folder has this much free space; None is one of another host.

    Raises DiskLow.
    """
    for folder in filter(None, folders):
        free = free_mib(folder)
        if free < least_mib:
            raise DiskLow(
                f"Only {free} MiB are free in {folder}: no build is started.",
                why=f"It is to find at least {least_mib} MiB (SAMEBITS_LEAST_FREE_MIB).",
                hint="Free space, e.g. with `samebits prune` (see Disk in docs/operating.md), then "
                "retry. `samebits doctor` says how much is free.",
            )


def remove_mirrors_but(repositories: Collection[str]) -> list[str]:
    """Remove the mirrors of other repositories than these; returns whose they were."""
    others = [path for path in mirrors_home().glob("*.git") if path.stem not in repositories]
    return [
        mirror.stem
        for mirror in sorted(others)
        if _remove_locked(Path(f"{mirror}.lock"), also=mirror)
    ]


def remove_old_locks() -> int:
    """Remove the lock files that are older than a day and that nobody holds; returns how many."""
    latest = time.time() - _OLD_LOCK_SECONDS
    old = [lock for lock in locks_home().glob("*.lock") if _made(lock) < latest]
    return sum(_remove_locked(lock) for lock in old)


def _made(lock: Path) -> float:
    try:
        return lock.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _remove_locked(lock: Path, also: Path | None = None) -> bool:
    """Remove a lock file, and what it guards; False if somebody holds it.

    Whoever waits for it meanwhile sees that the file is gone, and makes a new one:
    filelock looks at that.
    """
    try:
        with FileLock(lock, timeout=0):
            if also:
                shutil.rmtree(also, ignore_errors=True)
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
