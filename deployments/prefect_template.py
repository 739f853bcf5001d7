"""An empty database of Prefect's, of which each new one of this installation is a copy.

Prefect 3.8 makes an SQLite database by all migrations that there ever were, which takes 10 s. The
first one that is made is kept as it is before anything is written into it. A copy goes through the
migrations as every other database does: those that came since are run.
"""

import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import prefect
from sqlalchemy.engine import make_url

TEMPLATE = Path(sys.prefix) / "samebits" / f"prefect-{prefect.__version__}.db"
"""In the environment of the installation, with which it goes"""
log = logging.getLogger("samebits.template")


@contextmanager
def copied_or_kept(url: str, template: Path = TEMPLATE) -> Iterator[None]:
    """Within, Prefect makes its database, or runs what migrations there are: one that is new begins
    as a copy, or is kept for later ones. What of this cannot be done is left, and logged: then it
    takes the time of all migrations.
    """
    path = _file(url)
    # What is left of one that was deleted SQLite would write into a copy.
    if path is None or path.exists() or Path(f"{path}-wal").exists():
        yield
        return
    if template.exists():
        with _tried("copied"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _whole(path) as making:
                shutil.copyfile(template, making)
    if path.exists():
        with _not_again(path, template):
            yield
        return
    yield
    with _tried("kept"):
        template.parent.mkdir(exist_ok=True)
        with _whole(template) as making, closing(sqlite3.connect(path)) as made:
            made.execute("SELECT version_num FROM alembic_version")  # else it is none of Prefect's
            made.execute("VACUUM INTO ?", (str(making),))


@contextmanager
def _not_again(path: Path, template: Path) -> Iterator[None]:
    """A copy that Prefect cannot take is removed, and what it was copied from."""
    try:
        yield
    except Exception:
        for useless in (template, path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            useless.unlink(missing_ok=True)
        log.warning("a copy of %s could not be used: the next start makes it anew", template)
        raise


@contextmanager
def _tried(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        log.warning("the empty database was not %s: %s", what, error)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is there only once it is whole, also where the host dies."""
    making = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield making
        with making.open("rb") as written:
            os.fsync(written.fileno())
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)


def _file(url: str) -> Path | None:
    """The file of a database; None for one in memory, or on a server."""
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite" or parts.database in (None, "", ":memory:"):
        return None
    return None if str(parts.database).startswith("file:") else Path(str(parts.database))
