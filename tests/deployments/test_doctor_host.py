"""The doctor: disks, clock, receiver and inbox."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from blocks.inventory import Inventory
from blocks.registry import Registry
from deployments.checks import arrivals, host
from deployments.checks.checking import Scene
from deployments.inbox import Delivery, Inbox
from domain.health import Verdict, ok
from tests.conftest import free_port
from tests.doctor import answering, hello, idle_scene, verdicts

LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A system of which nothing runs."""
    return idle_scene(tmp_path)


# -- this host --------------------------------------------------------------------------------


def test_a_disk_with_less_space_than_a_build_is_to_find_fails(scene: Scene) -> None:
    folder = scene.settings.home.parent
    assert {f.verdict for f in host.check_disk(scene, folder)} == {Verdict.OK}
    greedy = Scene(scene.settings.model_copy(update={"least_free_mib": 10**9}), scene.api_url)
    found = host.check_disk(greedy, folder)
    assert verdicts(found) == {"disk of the data folder": "failed", "disk of the engine": "failed"}
    assert "SAMEBITS_LEAST_FREE_MIB" in found[0].said
    assert len(host.check_disk(scene, None)) == 1


async def test_a_clock_that_differs_from_another_hosts_is_a_warning() -> None:
    with answering(0, {"/": (200, "")}, date="Wed, 01 Jan 2020 00:00:00 GMT") as url:
        _, skew = await host.skew_of(url + "/")
    assert skew is not None
    found = host.judge_clock({"https://git.example.com/": skew, "https://other/": 0.0})
    assert found.verdict is Verdict.WARNING
    assert "ahead of that of git.example.com" in found.said
    found = host.judge_clock({"https://git.example.com/": -300.0, "https://other/": 20.0})
    assert (found.verdict, found.said) == (
        Verdict.WARNING,
        "It is 5 min behind that of git.example.com.",
    )
    found = host.judge_clock({"https://git.example.com/": -20.0})
    assert (found.verdict, found.said) == (Verdict.OK, "as that of git.example.com")
    nobody = f"http://127.0.0.1:{free_port()}/"
    assert await host.skew_of(nobody) == (nobody, None)


async def test_only_clocks_of_other_hosts_are_asked(scene: Scene) -> None:
    here = Inventory([("default", Registry(address="127.0.0.1:5000")), ("hello", hello())])
    (found,) = await host.check_clock(scene, here)
    assert found == ok("clock", "no other host to compare it with")
    assert set(
        host.remote_urls(
            [
                Registry(address="registry.example.com"),
                hello(url="https://github.com/a/b.git"),
                hello(url="git@github.com:a/b.git"),
            ]
        )
    ) == {"https://registry.example.com/v2/", "https://github.com/a/b.git"}


# -- arrivals ---------------------------------------------------------------------------------


async def test_the_receivers_own_answer_is_told(scene: Scene) -> None:
    answers = {"/health": (200, "{}")}
    with answering(scene.settings.receiver_port, answers):
        (found,) = await arrivals.check_receiver(scene)
        assert found.verdict is Verdict.OK
        answers["/health"] = (503, "the inbox is full")
        (found,) = await arrivals.check_receiver(scene)
        assert found.verdict is Verdict.FAILED
        assert "the inbox is full" in found.said


async def test_deliveries_that_have_waited_for_long_fail(scene: Scene) -> None:
    inbox = Inbox(scene.settings.inbox)
    (found,) = await arrivals.check_inbox(scene)
    assert found == ok("deliveries", "none waits")
    inbox.store(Delivery("1", "push", "hello", "main", "1" * 40))
    set_time(inbox, "deliveries", "received", LONG_AGO)
    (found,) = await arrivals.check_inbox(scene)
    assert found.verdict is Verdict.FAILED
    assert "1 wait" in found.said
    inbox.settle("1", "dispatched")
    (found,) = await arrivals.check_inbox(scene)
    assert found.verdict is Verdict.OK


async def test_git_has_to_be_asked_again_within_three_intervals(scene: Scene) -> None:
    inbox = Inbox(scene.settings.inbox)
    look, webhook = await arrivals.check_pushes(scene, ["hello"])
    assert (look.verdict.value, webhook.verdict.value) == ("warning", "ok")
    inbox.note_look("hello", {})
    patient = Scene(scene.settings.model_copy(update={"reconcile_seconds": 10**6}), scene.api_url)
    look, _ = await arrivals.check_pushes(patient, ["hello"])
    assert look.verdict is Verdict.OK
    set_time(inbox, "looks", "at", LONG_AGO)
    look, _ = await arrivals.check_pushes(patient, ["hello"])
    assert look.verdict is Verdict.FAILED
    assert "receiver.log" in look.hint


async def test_a_push_that_was_found_without_a_delivery_after_others_came_is_a_warning(
    scene: Scene,
) -> None:
    inbox = Inbox(scene.settings.inbox)
    inbox.store(Delivery("look:hello:main:1", "push", "hello", "main", "1" * 40))
    set_time(inbox, "deliveries", "received", LONG_AGO)
    inbox.store(Delivery("d-1", "push", "hello", "main", "2" * 40))
    _, webhook = await arrivals.check_pushes(scene, ["hello"])
    assert webhook.verdict is Verdict.OK
    assert webhook.said.startswith("last delivery")
    set_time(inbox, "deliveries", "received", LONG_AGO)
    inbox.store(Delivery("look:hello:main:3", "push", "hello", "main", "3" * 40))
    _, webhook = await arrivals.check_pushes(scene, ["hello"])
    assert webhook.verdict is Verdict.WARNING
    assert "Recent Deliveries" in webhook.hint


def set_time(inbox: Inbox, table: str, column: str, when: datetime) -> None:
    """Let all that the inbox holds be of a time."""
    with inbox._open() as db:
        db.execute(f"UPDATE {table} SET {column} = ?", (when.timestamp(),))
