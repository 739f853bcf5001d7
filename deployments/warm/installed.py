"""What code is installed, in a word: another word, and the parent of the runs is started anew."""

import hashlib
import sysconfig
from pathlib import Path

_PROJECT = Path(__file__).parent.parent.parent
_PACKAGES = ("domain", "blocks", "flows", "deployments")


def fingerprint() -> str:
    """Changes with each of our own files, and with each package that is installed or removed."""
    own = [file for package in _PACKAGES for file in sorted((_PROJECT / package).rglob("*.py"))]
    seen = [(str(file), file.stat().st_mtime_ns) for file in own if file.exists()]
    # A package that is installed, also another version, makes a folder here.
    libraries = Path(sysconfig.get_path("purelib"))
    return hashlib.sha256(repr((seen, libraries.stat().st_mtime_ns)).encode()).hexdigest()
