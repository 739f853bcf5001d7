"""The announcer: what the channel holds, compared with how the runs stand."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.events import Event, Resource
from pydantic import SecretStr

from blocks.channel import Channel, Pace
from blocks.repository import GitHubRepository
from deployments import announcer as announcer_module
from deployments.announcer import Announcer
from deployments.inbox import Delivery, Inbox
from domain.errors import (
    ChannelRefused,
    ChannelUnavailable,
    MessageRefused,
    SamebitsError,
)
from domain.marks import RESTARTED, SUPERSEDED, gives_way, way_given
from domain.message import Message
from tests.deployments.runs import SHA, FakePrefect
from tests.slack import Slack
from tests.waiting import until


@dataclass
class FakeChannel:
    """A channel that keeps its messages; `fault` is what it raises for a message, or None."""

    messages: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    faults: dict[str, SamebitsError] = field(default_factory=dict)
    """By a word in the message; the empty word is in each"""

    def post(self, message: Message) -> str:
        self._call("post", message)
        self.messages.append(message.plain())
        return str(len(self.messages) - 1)

    def update(self, reference: str, message: Message) -> str:
        self._call("update", message)
        self.messages[int(reference)] = message.plain()
        return reference

    def _call(self, what: str, message: Message) -> None:
        self.calls.append(what)
        for word, fault in self.faults.items():
            if word in message.plain():
                raise fault


class House:
    """An announcer with its inbox, and what it speaks to."""

    def __init__(self, folder: Path) -> None:
        self.prefect, self.channel = FakePrefect(), FakeChannel()
        self.opened: Channel | None = None
        self.changes: list[str] = []
        self.inbox_file = folder / "inbox.sqlite"
        self.news: asyncio.Queue[UUID] = asyncio.Queue()
        self.restart()

    def restart(self) -> None:
        """Forget all that is not in the inbox's file."""

        async def channel(_: PrefectClient) -> Channel:
            return self.opened or self.channel

        async def repositories() -> dict[str, GitHubRepository]:
            url = "https://github.com/example/hello-service.git"
            return {"hello-service": GitHubRepository(url=url, webhook_secret=SecretStr("s" * 20))}

        self.inbox = Inbox(self.inbox_file)
        self.announcer = Announcer(
            self.inbox,
            self.news,
            channel,
            repositories,
            self.prefect.client,
            lambda: self.changes.append("a block"),
        )

    async def compare(self) -> None:
        await self.announcer.tell(set(), everything=True)

    async def hear_of(self, *run_ids: UUID) -> None:
        await self.announcer.tell(set(run_ids), everything=False)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def headlines(house: House) -> list[str]:
    return [message.splitlines()[0] for message in house.channel.messages]


def test_the_event_of_a_changed_block_is_handed_on_and_is_no_news_of_a_run(house: House) -> None:
    for event, resource in (
        ("prefect.block-document.updated", "prefect.block-document"),
        ("prefect.flow-run.Running", "prefect.flow-run"),
    ):
        labels = {"prefect.resource.id": f"{resource}.{uuid4()}"}
        house.announcer._hear(Event(event=event, resource=Resource(labels)))
    assert house.changes == ["a block"]
    assert house.news.qsize() == 1


async def test_one_message_tells_a_run_from_its_schedule_to_its_end(house: House) -> None:
    run = house.prefect.add("Say hello")
    await house.compare()
    assert "· scheduled" in headlines(house)[0]
    house.prefect.set(run, StateType.RUNNING)
    await house.hear_of(run)
    house.prefect.step(run, "build", StateType.COMPLETED, 4.2)
    house.prefect.step(run, "test", StateType.RUNNING, 0)
    await house.hear_of(run)
    house.prefect.steps[run].pop()
    house.prefect.step(run, "test", StateType.FAILED, 1.25)
    house.prefect.set(run, StateType.FAILED, "2 of 9 tests are red.\n  | E assert 1 == 2")
    await house.hear_of(run)
    assert house.channel.calls == ["post", "update", "update", "update"]
    (told,) = house.channel.messages
    for part in (
        "hello-service · master → prod · failed",
        f"<https://github.com/example/hello-service/commit/{SHA}|{SHA[:8]}>",
        "Say hello by *Ada*",
        "build 4.2 s",
        "test 1.2 s",
        "2 of 9 tests are red.",
        "E assert 1 == 2",
        f"/runs/flow-run/{run}|",
    ):
        assert part in told


async def test_slack_itself_holds_one_message_for_a_run(house: House, slack: Slack) -> None:
    house.opened = slack.block().open(Path("unused"), Pace(0))
    run = house.prefect.add("Say hello")
    for kind in (StateType.SCHEDULED, StateType.RUNNING, StateType.CANCELLED):
        house.prefect.set(run, kind)
        await house.compare()
    (told,) = slack.messages()
    assert "cancelled" in told["text"]


async def test_where_nothing_changed_nothing_is_sent(house: House) -> None:
    house.prefect.set(house.prefect.add("Say hello"), StateType.RUNNING)
    for _ in range(3):
        await house.compare()
    assert house.channel.calls == ["post"]


async def test_after_a_while_away_the_channel_is_told_each_end_once_in_order(house: House) -> None:
    house.channel.faults[""] = ChannelUnavailable("Slack does not answer.")
    runs = [house.prefect.add(f"Commit {number}") for number in range(3)]
    with pytest.raises(ChannelUnavailable):
        await house.compare()
    for run in reversed(runs):
        house.prefect.set(run, StateType.COMPLETED)
        with pytest.raises(ChannelUnavailable):
            await house.hear_of(run)
    house.channel.faults.clear()
    house.channel.calls.clear()
    await house.compare()
    await house.compare()
    assert house.channel.calls == ["post"] * 3
    for number, told in enumerate(house.channel.messages):
        assert "· passed" in told
        assert f"Commit {number}" in told


async def test_what_the_channel_missed_is_told_however_long_it_was_away(house: House) -> None:
    house.channel.faults[""] = ChannelRefused("Slack refused the channel.")
    run = house.prefect.add("Say hello")
    with pytest.raises(ChannelRefused):
        await house.hear_of(run)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    house.prefect.set(run, StateType.COMPLETED, age=timedelta(days=30))
    house.prefect.runs[run] = house.prefect.runs[run].model_copy(
        update={"expected_start_time": long_ago, "created": long_ago}
    )
    house.channel.faults.clear()
    house.restart()
    await house.compare()
    assert "passed" in headlines(house)[0]


async def test_a_retried_run_updates_the_same_message(house: House) -> None:
    run = house.prefect.add("Say hello")
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.set(run, StateType.FAILED, "No space.", age=timedelta(hours=1))
    await house.compare()
    await house.compare()
    house.prefect.set(run, StateType.RUNNING)
    await house.hear_of(run)
    assert "running (attempt 2)" in headlines(house)[0].replace("*", "")
    house.prefect.set(run, StateType.COMPLETED, age=timedelta(hours=1))
    await house.compare()
    (told,) = house.channel.messages
    assert "passed* (attempt 2)" in told
    assert "attempt 1 failed: No space." in told
    assert house.inbox.told_endings(str(run)) == [(1, "failed"), (2, "passed")]


async def test_the_end_of_a_try_that_the_channel_missed_is_told_with_the_next(
    house: House,
) -> None:
    house.channel.faults[""] = ChannelUnavailable("Slack does not answer.")
    run = house.prefect.add("Say hello")
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.set(run, StateType.CRASHED, "The worker died.\nLine two")
    with pytest.raises(ChannelUnavailable):
        await house.compare()
    house.prefect.set(run, StateType.SCHEDULED, name="AwaitingRetry")
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.set(
        run, StateType.SCHEDULED, "It goes on by itself (1 of at most 2).", name=RESTARTED
    )
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.set(run, StateType.FAILED, "2 of 9 tests are red.")
    house.channel.faults.clear()
    await house.compare()
    (told,) = house.channel.messages
    ends = [line for line in told.splitlines() if "attempt" in line]
    assert ends[1:] == [
        "attempt 1 crashed: The worker died.",
        "attempt 2 cut off: It goes on by itself (1 of at most 2).",
    ]
    assert "failed* (attempt 3)" in ends[0]
    assert house.inbox.told_endings(str(run)) == [(1, "crashed"), (2, "cut off"), (3, "failed")]


async def test_a_retry_of_an_old_run_is_told_even_if_no_event_came(house: House) -> None:
    run = house.prefect.add("Say hello", age=timedelta(days=30))
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.set(run, StateType.FAILED, "No space.", age=timedelta(days=30))
    await house.hear_of(run)
    house.restart()
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.set(run, StateType.COMPLETED)
    await house.compare()
    assert "passed* (attempt 2)" in headlines(house)[0]


async def test_a_run_that_the_dispatcher_made_is_told_however_late(house: House) -> None:
    run = house.prefect.add("Say hello", age=timedelta(days=30))
    house.inbox.store(Delivery("1", "push"))
    house.inbox.settle("1", "dispatched", run_id=str(run))
    house.prefect.set(run, StateType.COMPLETED, age=timedelta(days=30))
    house.restart()
    await house.compare()
    assert "passed" in headlines(house)[0]


async def test_a_run_that_gave_way_is_told_once_with_the_commit_that_it_gave_way_to(
    house: House,
) -> None:
    run = house.prefect.add("Say hello")
    await house.compare()
    house.prefect.change(run, labels=gives_way(0, "f" * 40))
    house.prefect.set(run, StateType.CANCELLED)
    await house.compare()
    house.prefect.set(run, StateType.CANCELLED, way_given("f" * 40), name=SUPERSEDED)
    await house.compare()
    (told,) = house.channel.messages
    assert "· superseded" in told
    assert "gave way to ffffffff" in told
    assert house.channel.calls == ["post", "update"]


async def test_a_crash_of_which_nobody_brought_news_is_told(house: House) -> None:
    run = house.prefect.add("Say hello")
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.step(run, "build", StateType.RUNNING, 0)
    await house.compare()
    house.prefect.set(run, StateType.CRASHED, "The worker died.")
    await house.compare()
    (told,) = house.channel.messages
    assert "crashed" in told
    assert "The worker died." in told


async def test_a_run_that_was_deleted_is_asked_for_once_and_no_more(house: House) -> None:
    kept, deleted = house.prefect.add("Kept"), house.prefect.add("Deleted")
    await house.compare()
    del house.prefect.runs[deleted]
    await house.compare()
    assert house.inbox.not_ended() == [str(kept)]
    assert house.channel.calls == ["post", "post"]


async def test_an_announcer_that_was_restarted_posts_nothing_again(house: House) -> None:
    run = house.prefect.add("Say hello")
    await house.compare()
    house.restart()
    await house.compare()
    house.prefect.set(run, StateType.COMPLETED)
    await house.compare()
    assert house.channel.calls == ["post", "update"]


async def test_a_message_that_is_refused_holds_up_no_other(house: House) -> None:
    house.channel.faults["Poison"] = MessageRefused("Slack refused a message: invalid_blocks.")
    for subject in ("Poison", "Fine", "Fine too"):
        house.prefect.add(subject)
    await house.compare()
    await house.compare()
    assert house.channel.calls == ["post"] * 3
    assert len(house.channel.messages) == 2


async def test_a_refused_message_is_tried_again_after_a_while(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "_REFUSED_SECONDS", 0)
    house.channel.faults["Poison"] = MessageRefused("Slack refused a message.")
    house.prefect.add("Poison")
    await house.compare()
    house.channel.faults.clear()
    await house.compare()
    assert len(house.channel.messages) == 1


async def test_a_channel_that_refuses_all_is_asked_once_in_each_round(house: House) -> None:
    house.channel.faults[""] = ChannelRefused("Slack refused the channel.")
    for number in range(5):
        house.prefect.add(f"Commit {number}")
    with pytest.raises(ChannelRefused):
        await house.compare()
    assert house.channel.calls == ["post"]


async def test_runs_that_ended_long_since_are_not_asked_for_their_steps_again(house: House) -> None:
    for number in range(3):
        run = house.prefect.add(f"Commit {number}", age=timedelta(hours=3))
        house.prefect.set(run, StateType.RUNNING)
        house.prefect.set(run, StateType.COMPLETED, age=timedelta(hours=2))
    await house.compare()
    house.prefect.asked_for_steps = 0
    await house.compare()
    assert house.prefect.asked_for_steps == 0


async def test_a_step_that_prefect_writes_down_late_is_told(house: House) -> None:
    run = house.prefect.add("Say hello")
    house.prefect.set(run, StateType.RUNNING)
    house.prefect.set(run, StateType.COMPLETED)
    await house.compare()
    house.prefect.step(run, "deploy", StateType.COMPLETED, 2.5)
    await house.compare()
    assert "deploy 2.5 s" in house.channel.messages[0]


async def test_a_redeploy_is_told_as_one(house: House) -> None:
    house.prefect.add("Roll back", flow="redeploy")
    await house.compare()
    assert "redeploy: " in house.channel.messages[0]


async def test_news_of_a_run_of_another_flow_is_passed_over(house: House) -> None:
    await house.hear_of(uuid4())
    assert house.channel.calls == []


async def test_the_announcer_goes_on_by_itself_after_the_channel_and_prefect_were_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(announcer_module, "_GATHER_SECONDS", 0)
    monkeypatch.setattr(announcer_module, "_PAUSE_SECONDS", 0)
    house.prefect.add("Before")
    house.channel.faults[""] = ChannelUnavailable("Slack does not answer.")
    task = asyncio.create_task(house.announcer._tell_for_ever())
    try:
        await until(lambda: len(house.channel.calls) >= 2)
        house.prefect.down, asked = True, house.prefect.asked
        house.channel.faults.clear()
        await until(lambda: house.prefect.asked >= asked + 2)
        house.prefect.down = False
        await until(lambda: len(house.channel.messages) == 1)
        house.news.put_nowait(house.prefect.add("After"))
        await until(lambda: len(house.channel.messages) == 2)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_end_that_is_heard_of_before_it_is_written_down_is_told_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = house.prefect.add("Say hello")
    house.prefect.set(run, StateType.RUNNING, age=timedelta(seconds=1))
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.state-type": "COMPLETED"}
    ended = Event(event="prefect.flow-run.Completed", resource=Resource(resource))
    house.announcer._hear(ended)
    reads = list[int]()

    async def write_down(_: float) -> None:
        reads.append(house.prefect.asked)
        if len(reads) == 2:
            house.prefect.set(run, StateType.COMPLETED)

    monkeypatch.setattr(announcer_module.asyncio, "sleep", write_down)
    await house.hear_of(run)
    assert len(reads) == 2
    assert headlines(house) == ["✅ *hello-service · master → prod · passed*"]
    await house.hear_of(run)  # it is asked for once again, and not waited for
    assert len(reads) == 2


async def test_an_end_that_is_never_written_down_holds_up_no_message(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "_WRITTEN_SECONDS", (0.0, 0.0))
    run = house.prefect.add("Say hello")
    house.prefect.set(run, StateType.RUNNING)
    house.announcer._heard_ends[run] = datetime.now(UTC) + timedelta(days=1)
    await house.hear_of(run)
    assert headlines(house) == ["⏳ *hello-service · master → prod · running*"]


async def test_an_end_is_told_at_once_and_of_many_ends_the_next_ones_together(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "_GATHER_SECONDS", 60)
    first, second, third = (house.prefect.add(name) for name in ("One", "Two", "Three"))

    def hear_of_end(run: UUID) -> None:
        house.news.put_nowait(run)
        house.announcer._ended.set()

    async with asyncio.timeout(10):
        hear_of_end(first)
        assert await house.announcer._next_ids(60) == {first}
    hear_of_end(second)
    gathering = asyncio.create_task(house.announcer._next_ids(60))
    await asyncio.wait([gathering], timeout=0.1)
    assert not gathering.done()
    gathering.cancel()
    hear_of_end(third)
    monkeypatch.setattr(announcer_module, "_GATHER_SECONDS", 0)
    async with asyncio.timeout(10):
        assert third in await house.announcer._next_ids(60)
