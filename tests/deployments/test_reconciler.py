"""The reconciler against real git, and a Prefect server in memory."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType

from blocks import repository as repository_module
from blocks.repository import GitHubRepository
from deployments import example
from deployments import reconciler as reconciler_module
from deployments.dispatcher import Dispatcher
from deployments.inbox import HAS_RUN, Delivery, Inbox
from deployments.reconciler import Reconciler
from domain.errors import ServerUnavailable
from domain.marks import SUPERSEDED
from tests.conftest import Origin
from tests.deployments.deployed import DeployedPrefect


class House:
    """Inbox, dispatcher and reconciler, with one repository and a Prefect server."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.origin, self.file = origin, folder / "inbox.sqlite"
        self.prefect = DeployedPrefect()
        self.repositories = {"hello": origin.block}
        self.seconds = 3600.0
        self.prefect.leads("master", "stage")
        self.prefect.leads("*")
        self.prefect.can_redeploy()
        self.restart()

    def restart(self) -> None:
        """Forget all that is not in the inbox's file."""
        self.inbox, self.look = Inbox(self.file), asyncio.Event()
        self.stored: list[Delivery] = []
        created = asyncio.Queue[UUID]()
        self.dispatcher = Dispatcher(self.inbox, created, self.prefect.client, self.look)
        self.reconciler = Reconciler(
            self.inbox,
            self._known,
            self.stored.append,
            self.look,
            seconds=self.seconds,
            keep_days=30,
            api=self.prefect.client,
        )

    async def _known(self) -> dict[str, GitHubRepository]:
        return self.repositories

    async def deliver(self, sha: str, branch: str = "master") -> None:
        """A webhook's delivery, and its dispatch."""
        number = self.inbox.last_number() + 1
        self.inbox.store(Delivery(f"delivery {number}", "push", "hello", branch, sha))
        await self.dispatcher.dispatch()

    async def round(self) -> None:
        """A look, the dispatch of what it has found, and the look that notes it."""
        for _ in range(2):
            await self.reconciler.reconcile()
            await self.dispatcher.dispatch()
        await self.reconciler.reconcile()

    def end(self, sha: str, kind: StateType = StateType.COMPLETED, name: str | None = None) -> None:
        """Let the run of a commit end."""
        (run,) = [r for r in self.prefect.of("pipeline") if r.parameters["commit"]["sha"] == sha]
        self.prefect.set(run.id, StateType.RUNNING)
        self.prefect.set(run.id, kind, name=name)

    def followed(self) -> list[str]:
        """The commits that redeploys were started for, oldest first."""
        return [run.parameters["image"] for run in self.prefect.of("redeploy")]


@pytest.fixture
def house(tmp_path: Path, origin: Origin) -> House:
    return House(tmp_path, origin)


def old_commit(origin: Origin, branch: str) -> str:
    """A commit of years ago, on a branch."""
    origin.push({branch: "old"}, branch)
    tree = example.git("-C", str(origin.work), "write-tree")
    person = "A <a@b> 1000000000 +0000"
    file = origin.work.parent / "raw"
    file.write_text(f"tree {tree}\nauthor {person}\ncommitter {person}\n\nOld\n")
    sha = example.git("-C", str(origin.work), "hash-object", "-t", "commit", "-w", str(file))
    origin.push_ref(sha, branch, force=True)
    return sha


# -- nothing is lost ----------------------------------------------------------------------------


async def test_pushes_that_nobody_delivered_get_their_runs_with_subject_and_author(
    house: House, origin: Origin
) -> None:
    sha = origin.push({"a": "1"}, subject="Say hello")
    feature = origin.push({"a": "2"}, "feature/ü")
    await house.round()
    assert set(house.prefect.commits()) == {("master", sha), ("feature/ü", feature)}
    (run,) = [r for r in house.prefect.of("pipeline") if r.parameters["commit"]["sha"] == sha]
    assert run.name == f"master {sha[:8]} Say hello"
    assert run.parameters["commit"]["author"] == "Ada Lovelace"
    assert house.inbox.head("hello", "master") == sha
    assert house.inbox.last_look("hello") == pytest.approx(time.time(), abs=60)


async def test_after_the_receiver_was_away_every_head_has_its_run(
    house: House, origin: Origin
) -> None:
    origin.push({"a": "0"})
    await house.round()
    branches = [f"feature/{number}" for number in range(20)]
    heads = {(branch, origin.push({"a": branch}, branch)) for branch in branches}
    await house.reconciler.reconcile()
    await house.dispatcher.dispatch()
    assert set(house.prefect.commits()) >= heads
    assert len(house.prefect.commits()) == 21


async def test_what_was_delivered_is_not_started_again_however_often_git_is_asked(
    house: House, origin: Origin
) -> None:
    sha = origin.push({"a": "1"})
    await house.deliver(sha)
    for _ in range(3):
        await house.round()
        house.restart()
    assert house.prefect.commits() == [("master", sha)]
    assert [delivery.event for delivery in house.inbox.latest()] == ["push"]


async def test_a_delivery_that_still_waits_is_left_to_the_dispatcher(
    house: House, origin: Origin
) -> None:
    sha = origin.push({"a": "1"})
    house.inbox.store(Delivery("1", "push", "hello", "master", sha))
    await house.reconciler.reconcile()
    assert len(house.inbox.latest()) == 1
    assert house.inbox.head("hello", "master") == ""


async def test_a_delivery_that_comes_after_git_was_asked_makes_no_second_run(
    house: House, origin: Origin
) -> None:
    sha = origin.push({"a": "1"})
    await house.round()
    await house.deliver(sha)
    await house.round()
    assert house.prefect.commits() == [("master", sha)]
    assert house.inbox.latest(1)[0].reason == HAS_RUN
    assert house.followed() == []


async def test_a_look_that_ends_after_its_delivery_was_stored_is_made_up_for(
    house: House, origin: Origin
) -> None:
    sha = origin.push({"a": "1"})
    await house.reconciler.reconcile()
    house.restart()
    await house.reconciler.reconcile()
    assert house.stored == []
    await house.round()
    assert house.prefect.commits() == [("master", sha)]


async def test_a_head_whose_run_was_refused_is_tried_again(house: House, origin: Origin) -> None:
    house.prefect.deployments.clear()
    house.prefect.leads("*")
    sha = origin.push({"a": "1"})
    house.inbox.store(Delivery("1", "push", "hello", "master", sha))
    house.inbox.settle("1", "ignored", "The deployment is gone.")
    await house.round()
    assert house.prefect.commits() == [("master", sha)]


async def test_a_repository_without_a_deployment_is_not_looked_at(
    house: House, origin: Origin
) -> None:
    house.repositories["other"] = origin.block
    origin.push({"a": "1"})
    await house.round()
    assert house.inbox.last_look("other") is None


async def test_a_deleted_branch_that_comes_back_is_new(house: House, origin: Origin) -> None:
    first = origin.push({"a": "1"}, "feature")
    await house.round()
    example.git("-C", str(origin.work), "push", "-q", "origin", "--delete", "feature")
    await house.round()
    assert house.inbox.head("hello", "feature") == ""
    second = origin.push({"a": "2"}, "feature")
    await house.round()
    assert house.prefect.commits() == [("feature", first), ("feature", second)]


# -- the first look -----------------------------------------------------------------------------


async def test_at_first_old_branches_without_a_deployment_of_their_own_are_only_noted(
    house: House, origin: Origin
) -> None:
    master, old = old_commit(origin, "master"), old_commit(origin, "old")
    new = origin.push({"a": "1"}, "new")
    await house.round()
    assert set(house.prefect.commits()) == {("master", master), ("new", new)}
    assert house.inbox.head("hello", "old") == old
    later = old_commit(origin, "later")
    await house.round()
    assert ("later", later) in house.prefect.commits()


async def test_branches_that_led_nowhere_do_not_all_run_once_an_entry_for_others_is_added(
    house: House, origin: Origin
) -> None:
    house.prefect.deployments.clear()
    house.prefect.leads("master", "stage")
    master, feature = origin.push({"a": "1"}), origin.push({"a": "2"}, "feature")
    await house.round()
    house.prefect.leads("*")
    await house.round()
    assert house.prefect.commits() == [("master", master)]
    house.prefect.leads("feature", "prod")
    await house.round()
    assert house.prefect.commits() == [("master", master), ("feature", feature)]


# -- pushed back --------------------------------------------------------------------------------


@pytest.fixture
async def two(house: House, origin: Origin) -> tuple[str, str]:
    """Two commits of master that have passed, found one after the other without a webhook."""
    first = origin.push({"a": "1"})
    await house.round()
    second = origin.push({"a": "2"})
    await house.round()
    house.end(first)
    house.end(second)
    return first, second


async def test_a_stack_follows_its_branch_back_and_forth_once_each_time(
    house: House, origin: Origin, two: tuple[str, str]
) -> None:
    first, second = two
    for sha in (first, second, first):
        origin.push_ref(sha, "master", force=True)
        await house.round()
        await house.round()
    assert house.followed() == [first, second, first]
    run = house.prefect.of("redeploy")[0]
    assert (run.parameters["branch"], run.parameters["stack"]) == ("master", "stage")
    assert f"pushed back from {second[:8]} to {first[:8]}" in run.parameters["reason"]
    assert len(house.prefect.commits()) == 2


async def test_an_old_answer_of_gits_moves_nothing(
    house: House, origin: Origin, two: tuple[str, str]
) -> None:
    first, second = two
    origin.push_ref(first, "master", force=True)
    await house.reconciler.reconcile()  # the deliveries that it stores are not dispatched yet
    await house.dispatcher.dispatch()
    await house.reconciler.reconcile()
    assert house.followed() == []
    origin.push_ref(second, "master", force=True)
    await house.round()
    await house.round()
    assert house.followed() == []


async def test_a_move_between_two_looks_is_followed_too(house: House, origin: Origin) -> None:
    first = origin.push({"a": "1"})
    await house.deliver(first)
    await house.round()
    second = origin.push({"a": "2"})
    await house.deliver(second)
    origin.push_ref(first, "master", force=True)
    await house.deliver(first)
    assert house.look.is_set()
    house.end(first)
    house.end(second)
    await house.round()
    await house.round()
    assert house.followed() == [first]


async def test_deliveries_that_come_late_or_out_of_order_are_no_move(
    house: House, origin: Origin, two: tuple[str, str]
) -> None:
    await house.deliver(two[0])
    await house.round()
    third, fourth = origin.push({"a": "3"}), origin.push({"a": "4"})
    await house.deliver(fourth)
    house.end(fourth)
    await house.deliver(third)
    await house.round()
    assert house.followed() == []
    assert house.inbox.head("hello", "master") == fourth


async def test_a_follow_that_prefect_did_not_take_is_made_up_for_and_is_one(
    house: House, origin: Origin, two: tuple[str, str]
) -> None:
    first, _ = two
    origin.push_ref(first, "master", force=True)
    house.prefect.faults["redeploy"] = [ServerUnavailable("away"), ServerUnavailable("away")]
    await house.round()
    house.restart()
    house.prefect.lost_answers = [ServerUnavailable("The answer was lost.")]
    await house.round()
    await house.round()
    assert house.followed() == [first]


async def test_a_run_that_still_goes_on_deploys_itself(house: House, origin: Origin) -> None:
    first = origin.push({"a": "1"})
    await house.round()
    origin.push({"a": "2"})
    await house.round()
    origin.push_ref(first, "master", force=True)
    await house.round()
    house.end(first)
    await house.round()
    assert house.followed() == []
    assert house.inbox.head("hello", "master") == first


async def test_a_run_that_gave_way_is_started_again(house: House, origin: Origin) -> None:
    first = origin.push({"a": "1"})
    await house.round()
    second = origin.push({"a": "2"})
    await house.round()
    house.end(first, StateType.CANCELLED, SUPERSEDED)
    house.end(second)
    origin.push_ref(first, "master", force=True)
    await house.round()
    assert house.followed() == []
    (run,) = [r for r in house.prefect.of("pipeline") if r.parameters["commit"]["sha"] == first]
    assert run.state
    assert run.state.name == "AwaitingRetry"
    await house.round()
    assert len(house.prefect.states[run.id]) == 4


async def test_nothing_follows_to_a_commit_that_did_not_pass(house: House, origin: Origin) -> None:
    first = origin.push({"a": "1"})
    await house.round()
    origin.push({"a": "2"})
    await house.round()
    house.end(first, StateType.FAILED)
    origin.push_ref(first, "master", force=True)
    await house.round()
    assert house.followed() == []


# -- what goes wrong ----------------------------------------------------------------------------


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A git server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"https://127.0.0.1:{server.getsockname()[1]}/a/b.git"


async def test_a_git_server_that_hangs_holds_up_no_other_repository(
    house: House, origin: Origin, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "_LOOK_SECONDS", 3)
    house.prefect.leads("*", repository="hanging")
    hanging = GitHubRepository(url=silent_server, webhook_secret="a long secret")
    house.repositories = {"hanging": hanging} | house.repositories
    origin.push({"a": "1"})
    task = asyncio.create_task(house.reconciler.reconcile())
    async with asyncio.timeout(20):
        while not house.stored:  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.01)
        assert not task.done()
        await task
    assert house.inbox.last_look("hanging") is None


async def test_a_repository_that_fails_is_logged_once_and_once_when_it_is_well_again(
    house: House, origin: Origin, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "samebits.reconciler")
    house.prefect.leads("*", repository="gone")
    gone = GitHubRepository(url=str(tmp_path / "gone.git"), webhook_secret="a long secret")
    house.repositories["gone"] = gone
    sha = origin.push({"a": "1"})
    for _ in range(3):
        await house.round()
    assert [line for line in caplog.messages if "gone" in line] == [
        line for line in caplog.messages if line.startswith("gone is not reconciled: ")
    ][:1]
    assert house.prefect.commits() == [("master", sha)]
    house.repositories["gone"] = origin.block
    await house.round()
    assert "gone is reconciled again" in caplog.messages


async def test_it_goes_on_by_itself_and_at_once_when_it_is_asked(
    house: House, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "_FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(reconciler_module, "_GATHER_SECONDS", 0)
    broken, known = [ServerUnavailable("Prefect's API does not answer.")] * 2, house._known

    async def repositories() -> dict[str, GitHubRepository]:
        if broken:
            raise broken.pop()
        return await known()

    house.reconciler._repositories = repositories
    origin.push({"a": "1"})
    task = asyncio.create_task(house.reconciler.run())
    try:
        async with asyncio.timeout(20):
            while len(house.stored) < 1:  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0.01)
            origin.push({"a": "2"}, "feature")
            house.look.set()
            while len(house.stored) < 2:  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
