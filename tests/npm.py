"""Packages of npm that the tests use: installed once under `.tools`, as a lock file names them."""

import shutil
import subprocess
import time
from pathlib import Path

from filelock import FileLock

_HERE = Path(__file__).parent
_TOOLS = _HERE.parent / ".tools"
_SECONDS, _TRIES = 180, 3


class NpmMissing(Exception):
    """There is no npm on this machine."""


def install(name: str) -> Path:
    """Install what `tests/NAME/package-lock.json` names; returns the folder `node_modules`."""
    locked, folder = _HERE / name, _TOOLS / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        wanted = (locked / "package-lock.json").read_text()
        done = folder / "installed.json"
        if not done.exists() or done.read_text() != wanted:
            if not shutil.which("npm"):
                raise NpmMissing("npm is missing; it comes with Node, from https://nodejs.org")
            for file in ("package.json", "package-lock.json"):
                shutil.copy(locked / file, folder)
            _install(folder)
            done.write_text(wanted)
    return folder / "node_modules"


def _install(folder: Path) -> None:
    """Run npm, again where the network or its registry was slow or away."""
    failed = ""
    for number in range(_TRIES):
        time.sleep(number * 2)
        try:
            npm = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            failed = f"npm ci took longer than {_SECONDS} s"
            continue
        if npm.returncode == 0:
            return
        failed = f"npm ci ended with {npm.returncode}:\n{npm.stdout}{npm.stderr}"
    raise RuntimeError(failed)
