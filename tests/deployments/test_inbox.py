"""The inbox keeps what came, once, whoever asks and whatever dies."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.inbox import HAS_RUN, Delivery, Inbox, Told
from domain.errors import DiskFull
from domain.heads import Arrival, Known

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


def age(inbox: Inbox, days: float) -> None:
    """Let all that is here have come so many days ago."""
    with inbox._open() as db:
        db.execute("UPDATE deliveries SET received = received - ?", (days * 86400,))
        db.execute("UPDATE told SET changed = changed - ?", (days * 86400,))


def test_what_is_settled_is_forgotten_after_a_while_and_what_waits_never(inbox: Inbox) -> None:
    for number in ("waits", "ran", "ignored"):
        inbox.store(Delivery(number, "push", "hello", "master", "a" * 40))
    inbox.settle("ran", "dispatched", run_id="r")
    inbox.settle("ignored", "ignored", "no deployment")
    inbox.note_look("hello", {"master": Known("a" * 40, has_run=True, mark=3)})
    inbox.prune(30)
    assert len(inbox.latest()) == 3
    age(inbox, 31)
    inbox.store(Delivery("new", "ping", state="ignored"))
    inbox.prune(30)
    assert [d.id for d in inbox.latest()] == ["new", "waits"]
    assert inbox.head("hello", "master") == "a" * 40
    assert inbox.last_number() == 4


def test_what_was_told_of_ended_runs_is_forgotten_after_a_while_but_never_within_a_week(
    inbox: Inbox,
) -> None:
    inbox.keep_told(Told("ended", "1", "a", ended=True))
    inbox.keep_told(Told("runs", "2", "a", ended=False))
    age(inbox, 6)
    inbox.prune(1)
    assert inbox.told("ended")
    age(inbox, 2)
    inbox.prune(1)
    assert inbox.told("ended") is None
    assert inbox.told("runs")


def test_a_wanted_redelivery_comes_after_all_that_came_meanwhile(inbox: Inbox) -> None:
    for number in ("1", "2"):
        inbox.store(Delivery(number, "push"))
    inbox.settle("1", "ignored", "The deployment is gone.")
    assert inbox.store(Delivery("1", "push"))
    assert [(d.id, d.number, d.reason) for d in inbox.waiting()] == [("2", 2, ""), ("1", 3, "")]


def test_the_commits_of_a_branch_are_known_in_the_order_in_which_they_came(inbox: Inbox) -> None:
    for number, branch in enumerate(["master", "other", "master"]):
        inbox.store(Delivery(str(number), "push", "hello", branch, str(number) * 40))
    inbox.settle("0", "dispatched", run_id="r")
    inbox.settle("2", "dispatched", HAS_RUN, "s")
    assert inbox.arrivals("hello", "master") == [
        Arrival(1, "0" * 40, "dispatched", "r"),
        Arrival(3, "2" * 40, "dispatched", "s", repeated=True),
    ]


def test_known_heads_are_kept_replaced_and_forgotten(inbox: Inbox) -> None:
    assert inbox.last_look("hello") is None
    first, second = Known("a" * 40, has_run=False, mark=1), Known("b" * 40, has_run=True, mark=2)
    inbox.note_look("hello", {"master": first, "old": first})
    inbox.note_look("other", {"master": first})
    inbox.note_look("hello", {"master": second}, gone=["old"])
    assert inbox.heads("hello") == {"master": second}
    assert inbox.head("hello", "old") == ""
    assert inbox.last_look("hello") == pytest.approx(time.time(), abs=60)


def test_a_file_of_an_earlier_version_goes_on_working(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite"
    db = sqlite3.connect(path)
    db.executescript(
        "CREATE TABLE deliveries (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL "
        "UNIQUE, received REAL NOT NULL, event TEXT NOT NULL, repository TEXT NOT NULL, branch "
        "TEXT NOT NULL, sha TEXT NOT NULL, subject TEXT NOT NULL, author TEXT NOT NULL, state TEXT "
        "NOT NULL, reason TEXT NOT NULL, run_id TEXT NOT NULL);"
        "CREATE TABLE told (run_id TEXT PRIMARY KEY, reference TEXT NOT NULL, fingerprint TEXT NOT "
        "NULL, ended INTEGER NOT NULL, changed REAL NOT NULL);"
        "INSERT INTO deliveries VALUES (7, '1', 0, 'push', 'hello', 'm', 'a', '', '', 'waiting',"
        " '', '');"
        "INSERT INTO told VALUES ('r', '1', 'a', 1, 0);"
    )
    db.close()
    inbox = Inbox(path)
    assert [(d.id, d.number) for d in inbox.waiting()] == [("1", 7)]
    assert inbox.last_number() == 7
    assert inbox.heads("hello") == {}
    assert inbox.told("r") == Told("r", "1", "a", ended=True)
