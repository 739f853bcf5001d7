"""A new database of Prefect's begins as a copy of the first one that was made."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from deployments.prefect_template import copied_or_kept

MADE = "CREATE TABLE alembic_version (version_num TEXT)"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return tmp_path / "environment" / "samebits" / "prefect.db"


@pytest.fixture(autouse=True)
def environment(template: Path) -> None:
    template.parent.parent.mkdir()


def url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def run(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return [name for (name,) in database.execute("SELECT name FROM sqlite_master")]


def test_what_is_made_first_is_what_a_later_one_begins_as(tmp_path: Path, template: Path) -> None:
    first, second = tmp_path / "first.db", tmp_path / "new" / "second.db"
    with copied_or_kept(url(first), template):
        run(first, MADE)
    run(first, "CREATE TABLE later (at TEXT)")
    with copied_or_kept(url(second), template):
        assert tables(second) == ["alembic_version"]
        run(second, "CREATE TABLE migrated (at TEXT)")
    assert tables(template) == ["alembic_version"]
    assert [path.name for path in second.parent.iterdir()] == ["second.db"]
    assert [path.name for path in template.parent.iterdir()] == ["prefect.db"]


def test_a_database_that_is_there_is_neither_replaced_nor_kept(
    tmp_path: Path, template: Path
) -> None:
    old = tmp_path / "old.db"
    run(old, "CREATE TABLE ours (at TEXT)")
    with copied_or_kept(url(old), template):
        run(old, MADE)
    assert not template.exists()
    template.parent.mkdir()
    run(template, "CREATE TABLE another (at TEXT)")
    with copied_or_kept(url(old), template):
        assert tables(old) == ["ours", "alembic_version"]


def test_where_something_is_left_of_a_database_no_copy_is_laid_beside_it(
    tmp_path: Path, template: Path
) -> None:
    template.parent.mkdir()
    run(template, MADE)
    path = tmp_path / "prefect.db"
    Path(f"{path}-wal").touch()
    with copied_or_kept(url(path), template):
        assert not path.exists()


@pytest.mark.parametrize(
    "elsewhere",
    [
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true",
        "postgresql+asyncpg://me:secret@db.example.com/prefect",
    ],
)
def test_one_that_is_no_file_is_let_alone(elsewhere: str, template: Path) -> None:
    with copied_or_kept(elsewhere, template):
        pass
    assert not template.parent.exists()


def test_one_whose_making_fails_is_not_kept(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "prefect.db"
    with pytest.raises(sqlite3.OperationalError), copied_or_kept(url(path), template):
        run(path, "CREATE TABLE")
    assert path.exists()
    assert not template.exists()


@pytest.mark.parametrize("what", ["copied", "kept"])
def test_where_it_cannot_be_copied_or_kept_it_is_made_all_the_same_and_the_log_says_so(
    tmp_path: Path, template: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    if what == "copied":
        template.mkdir(parents=True)
    else:
        template.parent.write_text("a file in the place of the folder")
    path = tmp_path / "prefect.db"
    with copied_or_kept(url(path), template):
        run(path, MADE)
    assert tables(path) == ["alembic_version"]
    assert f"was not {what}" in caplog.text


def test_what_is_no_database_of_prefects_is_not_kept(
    tmp_path: Path, template: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "prefect.db"
    with copied_or_kept(url(path), template):
        run(path, "CREATE TABLE half (at TEXT)")
    assert not template.exists()
    assert "the empty database was not kept: no such table: alembic_version" in caplog.text
    assert tables(path) == ["half"]


def test_a_copy_that_cannot_be_migrated_is_none_the_next_time(
    tmp_path: Path, template: Path
) -> None:
    template.parent.mkdir()
    run(template, "CREATE TABLE half (at TEXT)")
    path = tmp_path / "prefect.db"
    with pytest.raises(sqlite3.OperationalError), copied_or_kept(url(path), template):
        run(path, "CREATE TABLE half (at TEXT)")
    assert not path.exists()
    with copied_or_kept(url(path), template):
        run(path, MADE)
    assert tables(template) == ["alembic_version"]
