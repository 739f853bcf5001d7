"""The inbox keeps what came, once, whoever asks and whatever dies."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.inbox import Delivery, Inbox, Told
from domain.errors import DiskFull

PUSH = Delivery("1", "push", "hello", "feature/ü", "a" * 40, "Fix 'it'; --", "Ada")


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "folder" / "inbox.sqlite")


def test_a_delivery_is_kept_as_it_came(inbox: Inbox) -> None:
    assert inbox.store(PUSH)
    assert inbox.waiting() == [PUSH]
    assert inbox.latest() == [PUSH]


def test_a_delivery_is_kept_once_even_if_it_comes_again_as_another(inbox: Inbox) -> None:
    assert inbox.store(PUSH)
    assert not inbox.store(PUSH)
    assert not inbox.store(Delivery("1", "ping", state="ignored"))
    assert inbox.latest() == [PUSH]


def test_a_delivery_that_comes_again_after_its_run_began_starts_no_other(inbox: Inbox) -> None:
    inbox.store(PUSH)
    inbox.settle("1", "dispatched", run_id="r")
    assert not inbox.store(PUSH)
    assert inbox.waiting() == []


def test_what_waits_is_given_oldest_first_and_the_latest_newest_first(inbox: Inbox) -> None:
    for number in ("3", "1", "2"):
        inbox.store(Delivery(number, "push"))
    assert [d.id for d in inbox.waiting()] == ["3", "1", "2"]
    assert [d.id for d in inbox.waiting(limit=2)] == ["3", "1"]
    assert [d.id for d in inbox.latest(limit=2)] == ["2", "1"]


def test_a_settled_delivery_does_not_wait_and_says_what_became_of_it(inbox: Inbox) -> None:
    for number in ("1", "2", "3"):
        inbox.store(Delivery(number, "push"))
    inbox.settle("1", "dispatched", run_id="r1")
    inbox.settle("2", "ignored", "no deployment")
    assert [d.id for d in inbox.waiting()] == ["3"]
    settled = {d.id: (d.state, d.reason, d.run_id) for d in inbox.latest()}
    assert settled["1"] == ("dispatched", "", "r1")
    assert settled["2"] == ("ignored", "no deployment", "")


def test_another_process_sees_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite"
    Inbox(path).store(PUSH)
    assert Inbox(path).waiting() == [PUSH]


def test_an_answer_is_given_only_for_what_is_on_the_disk(inbox: Inbox, tmp_path: Path) -> None:
    full = 2
    with inbox._open() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (full,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    inbox.store(PUSH)
    other = sqlite3.connect(tmp_path / "folder" / "inbox.sqlite")
    try:
        assert other.execute("SELECT id FROM deliveries").fetchall() == [("1",)]
    finally:
        other.close()


def test_what_fails_in_the_middle_leaves_nothing_behind(inbox: Inbox) -> None:
    row = "INSERT INTO told VALUES ('r', 'm', 'f', 0, 0)"
    with pytest.raises(sqlite3.IntegrityError), inbox._open() as db:
        db.executescript(f"BEGIN; {row}; {row};")
    assert inbox.told("r") is None


def test_several_threads_store_at_once_and_each_delivery_is_kept_once(inbox: Inbox) -> None:
    deliveries = [Delivery(str(n % 20), "push") for n in range(60)]
    with ThreadPoolExecutor(6) as threads:
        stored = list(threads.map(inbox.store, deliveries))
    assert sum(stored) == 20
    assert {d.id for d in inbox.waiting()} == {str(n) for n in range(20)}


def test_an_inbox_that_cannot_be_written_says_so(inbox: Inbox, tmp_path: Path) -> None:
    with inbox._open() as db:
        db.execute("DROP TABLE deliveries")
    with pytest.raises(DiskFull, match="redelivered") as full:
        inbox.store(PUSH)
    assert "deliveries" in full.value.why


def test_what_was_told_is_kept_and_replaced(inbox: Inbox) -> None:
    assert inbox.told("r") is None
    first = Told("r", "C1/1.0", "aaa", ended=False)
    inbox.keep_told(first)
    assert inbox.told("r") == first
    last = Told("r", "C1/1.0", "bbb", ended=True)
    inbox.keep_told(last)
    assert inbox.told("r") == last


def test_runs_whose_end_was_not_told_are_known(inbox: Inbox) -> None:
    inbox.keep_told(Told("r1", "1", "a", ended=False))
    inbox.keep_told(Told("r2", "2", "a", ended=True))
    inbox.keep_told(Told("r3", "3", "a", ended=False))
    inbox.keep_told(Told("r3", "3", "b", ended=True))
    assert inbox.not_ended() == ["r1"]
