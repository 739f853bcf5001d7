"""The superseder: older runs give way to that of the head, deploys never."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound

from blocks.repository import GitHubRepository
from deployments import superseding
from deployments.inbox import Delivery, Inbox
from deployments.superseding import Superseder
from domain.errors import RepositoryUnreachable
from domain.marks import (
    SUPERSEDED,
    deploys_tag,
    gives_way,
    restarted,
    superseded_by,
)
from tests.deployments.runs import FakePrefect

OLD, NEW, NEWEST = ("1" * 40, "2" * 40, "3" * 40)


@dataclass
class Git:
    """The remote of a repository: its branches, and how often it was asked."""

    branches: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    down: bool = False

    def heads(self) -> dict[str, str]:
        self.asked += 1
        if self.down:
            raise RepositoryUnreachable("GitHub does not answer.")
        return dict(self.branches)


class House:
    """A superseder, and what it speaks to."""

    def __init__(self, folder: Path) -> None:
        self.prefect, self.git = FakePrefect(), Git()
        self.inbox, self.awake = Inbox(folder / "inbox.sqlite"), asyncio.Event()
        self.superseder = self.restarted()

    def restarted(self) -> Superseder:
        """A superseder that remembers nothing."""

        async def repositories() -> dict[str, GitHubRepository]:
            return {"hello-service": cast("GitHubRepository", self.git)}

        return Superseder(self.inbox, self.awake, repositories, self.prefect.client)

    def push(self, sha: str, branch: str = "master", **parameters: Any) -> UUID:
        """A push as the dispatcher leaves it: a delivery and a run."""
        self.git.branches[branch] = sha
        number = str(len(self.prefect.runs))
        self.inbox.store(Delivery(number, "push", "hello-service", branch, sha))
        key = f"hello-service/a-deployment/{branch}/{sha}"
        run = self.prefect.add(f"{branch} {sha[:8]}", sha=sha, branch=branch, key=key, **parameters)
        self.inbox.settle(number, "dispatched", run_id=str(run))
        return run

    def begin(self, run: UUID) -> None:
        """Let a worker begin a run."""
        self.prefect.change(run, infrastructure_pid="host:1")
        for kind in (StateType.PENDING, StateType.RUNNING):
            self.prefect.set(run, kind)

    def state(self, run: UUID) -> State[Any]:
        state = self.prefect.runs[run].state
        assert state
        return state

    def gave_way(self, run: UUID) -> str:
        """What the run gave way to, as its report will say."""
        found = self.prefect.runs[run]
        return superseded_by(found.labels, found.run_count)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_a_run_that_waits_gives_way_to_that_of_a_newer_push(house: House) -> None:
    old, new = house.push(OLD), house.push(NEW)
    await house.superseder.look()
    assert house.state(old).name == SUPERSEDED
    assert NEW[:8] in (house.state(old).message or "")
    assert house.gave_way(old) == NEW
    assert house.state(new).is_scheduled()
    assert house.gave_way(new) == ""


async def test_a_run_that_is_deleted_in_that_moment_ends_no_loop(house: House) -> None:
    old, _ = house.push(OLD), house.push(NEW)
    deleted = house.prefect.runs[old]

    async def gone(_: UUID) -> list[State[Any]]:
        house.prefect.runs.pop(old, None)
        raise ObjectNotFound(Exception("404"))

    house.prefect.read_flow_run_states = gone  # type: ignore[method-assign]
    await house.superseder.look()
    await house.superseder.look()
    assert deleted.id not in house.prefect.runs


async def test_a_run_that_builds_or_tests_is_cancelled_and_its_end_has_the_name(
    house: House,
) -> None:
    old = house.push(OLD)
    house.begin(old)
    house.push(NEW)
    assert await house.superseder.look()
    assert house.state(old).name == "Cancelling"
    house.prefect.set(old, StateType.CANCELLED, "Flow run was cancelled successfully.")
    await house.superseder.look()
    assert house.state(old).name == SUPERSEDED
    assert house.gave_way(old) == NEW
    assert not await house.superseder.look()


async def test_of_several_only_the_run_of_the_head_goes_on(house: House) -> None:
    runs = [house.push(sha) for sha in (OLD, NEW, NEWEST)]
    house.begin(runs[0])
    await house.superseder.look()
    assert [house.gave_way(run) for run in runs] == [NEWEST, NEWEST, ""]


async def test_a_run_that_has_begun_to_deploy_is_left_alone(house: House) -> None:
    old = house.push(OLD)
    house.begin(old)
    house.prefect.change(old, tags=[deploys_tag(1)])
    house.push(NEW)
    await house.superseder.look()
    assert house.state(old).is_running()
    assert house.gave_way(old) == ""
    assert house.git.asked == 0


async def test_a_deploy_that_was_cut_off_and_is_started_again_is_left_to_its_end(
    house: House,
) -> None:
    old = house.push(OLD)
    house.begin(old)
    house.prefect.change(old, tags=[deploys_tag(1)], labels=restarted(1))
    house.prefect.set(old, StateType.SCHEDULED, name="Restarted")
    house.push(NEW)
    await house.superseder.look()
    assert house.state(old).is_scheduled()


async def test_a_run_that_waits_to_be_started_again_gives_way_at_once(house: House) -> None:
    old = house.push(OLD)
    house.begin(old)
    house.prefect.change(old, labels=restarted(1))
    house.prefect.set(old, StateType.SCHEDULED, name="Restarted")
    house.push(NEW)
    await house.superseder.look()
    assert house.state(old).name == SUPERSEDED
    assert house.gave_way(old) == NEW


async def test_each_commit_is_built_where_the_settings_say_so(house: House) -> None:
    old = house.push(OLD, settings={"supersede": False})
    house.push(NEW, settings={"supersede": False})
    assert not await house.superseder.look()
    assert house.state(old).is_scheduled()
    assert house.git.asked == 0


async def test_what_a_person_retries_is_wanted_even_if_the_head_has_its_run(house: House) -> None:
    old = house.push(OLD)
    house.push(NEW)
    await house.superseder.look()
    house.prefect.set(old, StateType.SCHEDULED, name="AwaitingRetry")
    for _ in range(2):
        await house.superseder.look()
    assert house.state(old).name == "AwaitingRetry"
    house.begin(old)
    await house.superseder.look()
    assert house.state(old).is_running()
    assert house.gave_way(old) == ""  # so its deploy does not stop for it


async def test_a_run_that_a_person_has_started_is_wanted(house: House) -> None:
    by_hand = house.prefect.add("by hand", sha=OLD)
    house.push(NEW)
    await house.superseder.look()
    assert house.state(by_hand).is_scheduled()


async def test_branches_and_repositories_do_not_meddle(house: House) -> None:
    one, other = house.push(OLD), house.push(NEW, branch="feature/x")
    await house.superseder.look()
    assert house.state(one).is_scheduled()
    assert house.state(other).is_scheduled()
    assert house.git.asked == 0  # nothing could be superseded


async def test_a_late_delivery_of_an_old_commit_supersedes_nothing(house: House) -> None:
    new = house.push(NEW)
    old = house.push(OLD)
    house.git.branches["master"] = NEW
    for _ in range(2):
        await house.superseder.look()
    assert house.state(new).is_scheduled()
    assert house.gave_way(old) == NEW


async def test_nothing_gives_way_to_a_head_that_has_no_run_yet(house: House) -> None:
    old = house.push(OLD)
    house.inbox.store(Delivery("late", "push", "hello-service", "master", NEW))
    house.git.branches["master"] = NEW
    await house.superseder.look()
    assert house.state(old).is_scheduled()


async def test_a_head_whose_run_has_ended_supersedes_as_well(house: House) -> None:
    old, new = house.push(OLD), house.push(NEW)
    house.begin(new)
    house.prefect.set(new, StateType.COMPLETED)
    await house.superseder.look()
    assert house.gave_way(old) == NEW


async def test_a_branch_that_was_pushed_back_supersedes_once_git_has_said_so_twice(
    house: House,
) -> None:
    house.push(OLD)
    new = house.push(NEW)
    house.git.branches["master"] = OLD
    house.inbox.store(Delivery("back", "push", "hello-service", "master", OLD))
    await house.superseder.look()
    assert house.state(new).is_scheduled()
    await house.superseder.look()
    assert house.gave_way(new) == OLD


async def test_a_branch_that_was_deleted_supersedes_nothing(house: House) -> None:
    old, new = house.push(OLD), house.push(NEW)
    house.git.branches.clear()
    await house.superseder.look()
    assert house.state(old).is_scheduled()
    assert house.state(new).is_scheduled()


async def test_while_git_does_not_answer_nothing_gives_way(house: House) -> None:
    old = house.push(OLD)
    house.push(NEW)
    house.git.down = True
    assert await house.superseder.look()
    assert house.state(old).is_scheduled()
    house.git.down = False
    await house.superseder.look()
    assert house.gave_way(old) == NEW


async def test_a_superseder_that_died_between_its_word_and_its_deed_goes_on(house: House) -> None:
    old = house.push(OLD)
    house.begin(old)
    house.push(NEW)
    house.prefect.change(old, labels=gives_way(1, NEW))
    await house.restarted().look()
    assert house.state(old).is_cancelling()


async def test_a_superseder_that_died_before_the_end_of_a_run_gives_it_its_name(
    house: House,
) -> None:
    old, by_hand = house.push(OLD), house.prefect.add("by hand")
    house.begin(old)
    house.push(NEW)
    await house.superseder.look()
    for run in (old, by_hand):
        house.prefect.set(run, StateType.CANCELLED, "Flow run was cancelled successfully.")
    await house.restarted().look()
    assert house.state(old).name == SUPERSEDED
    assert house.state(by_hand).name == "Cancelled"


async def test_a_run_with_wild_parameters_is_passed_over(house: House) -> None:
    wild: list[dict[str, Any]] = [{"commit": None}, {"commit": "x"}, {"commit": {}}]
    for parameters in [*wild, {"settings": 7}]:
        house.prefect.add("wild", key="wild", **parameters)
    await house.superseder.look()
    assert all(run.state and run.state.is_scheduled() for run in house.prefect.runs.values())


async def test_the_superseder_goes_on_by_itself_after_prefect_was_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superseding, "_SLOW_SECONDS", 0.01)
    house.prefect.down = True
    task = asyncio.create_task(house.superseder.run())
    try:
        async with asyncio.timeout(10):
            while house.prefect.asked < 2:  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0.005)
            house.prefect.down = False
            old = house.push(OLD)
            house.push(NEW)
            house.awake.set()
            while not house.gave_way(old):  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0.005)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_the_number_of_a_try_is_that_of_the_deploy_step() -> None:
    for count, kind, number in (
        (0, StateType.SCHEDULED, 1),
        (0, StateType.PENDING, 1),
        (1, StateType.RUNNING, 1),
        (1, StateType.SCHEDULED, 2),
        (2, StateType.RUNNING, 2),
    ):
        run = FlowRun(flow_id=UUID(int=1), run_count=count, state=State(type=kind))
        assert superseding._attempt(run) == number
