"""The warm worker: which runs it takes, and that it is told of them."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, WorkPool, WorkQueue
from prefect.workers.base import BaseWorker
from pydantic import BaseModel

from deployments.warm import worker as worker_module
from deployments.warm.keeping import kept_for
from deployments.warm.worker import WarmWorker
from tests.waiting import until


@dataclass
class House:
    """A worker with three places, and a server that has runs for it."""

    worker: WarmWorker
    waiting: list[FlowRun] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    asked: int = 0
    meanwhile: list[str] = field(default_factory=list)
    """The repositories of runs that come while the server answers"""

    def push(self, repository: str, number: int = 1) -> None:
        for _ in range(number):
            parameters = {"commit": {"repository": repository}}
            name = f"{repository} {len(self.waiting)}"
            self.waiting.append(
                FlowRun(id=uuid4(), flow_id=uuid4(), name=name, parameters=parameters)
            )
        self.worker._hear()  # as Prefect's event has it do

    async def look(self) -> list[str]:
        """Have it look for runs; returns what it takes now."""
        before = len(self.taken)
        await self.worker.get_and_submit_flow_runs()
        return self.taken[before:]

    def end(self, name: str, *, again: bool = False) -> None:
        run = next(run for run in self.waiting if run.name == name)
        if not again:
            self.waiting.remove(run)
        self.worker._at_work[run.id] = "its process"
        self.worker._release_limit_slot(run.id)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(WarmWorker("a-pool", limit=3))
    house.worker.is_setup = True
    house.worker._work_pool = WorkPool(name="a-pool", type="warm")

    async def get_and_submit(worker: WarmWorker) -> list[FlowRun]:
        house.asked += 1
        responses = [SimpleNamespace(flow_run=run) for run in house.waiting]
        while house.meanwhile:
            house.push(house.meanwhile.pop())
        return await worker._submit_scheduled_flow_runs(responses)  # type: ignore[arg-type]

    async def submit(_: WarmWorker, responses: list[Any]) -> list[FlowRun]:
        house.taken += [one.flow_run.name for one in responses]
        return [one.flow_run for one in responses]

    monkeypatch.setattr(BaseWorker, "get_and_submit_flow_runs", get_and_submit)
    monkeypatch.setattr(BaseWorker, "_submit_scheduled_flow_runs", submit)
    return house


async def test_it_takes_as_many_runs_as_it_has_places(house: House) -> None:
    house.push("ours", 5)
    assert await house.look() == ["ours 0", "ours 1", "ours 2"]
    assert await house.look() == []
    assert house.asked == 1, "a worker without a free place asks nobody"
    house.end("ours 1")
    assert await house.look() == ["ours 3"]


async def test_what_waited_a_moment_ago_is_taken_without_asking_again(house: House) -> None:
    house.push("ours", 6)
    await house.look()
    house.end("ours 0")
    assert await house.look() == ["ours 3"]
    assert house.asked == 1
    house.end("ours 1")
    house.worker._waiting_until = 0
    assert await house.look() == ["ours 4"]
    assert house.asked == 2, "after two seconds it asks"
    house.end("ours 2")
    house.push("ours")
    assert await house.look() == ["ours 5"]
    assert house.asked == 3, "of something new it asks"


async def test_a_run_that_comes_while_it_looks_is_asked_for(house: House) -> None:
    house.push("ours", 5)
    house.meanwhile.append("theirs")
    assert await house.look() == ["ours 0", "ours 1", "ours 2"]
    house.end("ours 0")
    assert await house.look() == ["theirs 5"]


async def test_where_prefect_limits_the_runs_it_is_asked_each_time(house: House) -> None:
    house.worker._work_pool = WorkPool(name="a-pool", type="warm", concurrency_limit=9)
    house.push("ours", 5)
    await house.look()
    house.end("ours 0")
    assert await house.look() == ["ours 3"]
    assert house.asked == 2


async def test_a_burst_of_one_repository_holds_up_another_by_one_run_at_most(house: House) -> None:
    house.push("theirs", 50)
    await house.look()
    house.push("ours")
    house.end("theirs 0")
    assert await house.look() == ["ours 50"]


async def test_a_run_that_is_retried_waits_for_the_end_of_its_last_process(house: House) -> None:
    house.push("ours")
    assert await house.look() == ["ours 0"]
    assert await house.look() == []
    house.end("ours 0", again=True)
    assert await house.look() == ["ours 0"]


async def test_a_run_that_could_not_be_started_gives_its_place_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def submit(_: WarmWorker, __: FlowRun) -> None:
        """As Prefect's does where the deployment is gone."""

    monkeypatch.setattr(BaseWorker, "_submit_run", submit)
    house.push("ours", 4)
    await house.look()
    house.worker._woken.clear()
    await house.worker._submit_run(house.waiting[0])
    house.waiting.pop(0)
    assert not house.worker._woken.is_set(), "it is not tried again and again"
    assert await house.look() == ["ours 3"]


async def test_the_end_of_a_run_wakes_it(house: House) -> None:
    house.push("ours", 4)
    looking = asyncio.create_task(house.worker._look_when_woken())
    try:
        house.worker._woken.set()
        await until(lambda: len(house.taken) == 3)
        house.end("ours 0")
        await until(lambda: len(house.taken) == 4)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def test_a_run_that_is_heard_of_before_it_is_written_down_is_looked_for_once_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = BaseWorker.get_and_submit_flow_runs

    async def answer_too_early(worker: WarmWorker) -> list[FlowRun]:
        taken = await answer(worker)
        if house.asked == 1:
            house.push("ours")
            worker._news -= 1  # of which nobody tells
            worker._woken.clear()
        return taken

    monkeypatch.setattr(BaseWorker, "get_and_submit_flow_runs", answer_too_early)
    looking = asyncio.create_task(house.worker._look_when_woken())
    try:
        house.worker._hear()
        await until(lambda: house.taken == ["ours 0"])
        assert house.asked == 2
        house.worker._hear()
        await until(lambda: house.asked == 4)
        with pytest.raises(TimeoutError):
            await until(lambda: house.asked > 4, 0.1)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def test_the_end_of_a_run_that_no_other_one_waits_for_does_not(house: House) -> None:
    house.push("ours", 2)
    assert len(await house.look()) == 2
    house.worker._woken.clear()
    house.end("ours 0")
    assert not house.worker._woken.is_set()
    house.push("ours", 1)
    assert house.worker._woken.is_set()


@pytest.mark.parametrize("limited", ["pool", "queue"])
async def test_where_prefect_limits_the_runs_each_end_wakes_it(house: House, limited: str) -> None:
    async def queue(_: object) -> WorkQueue:
        limit = 2 if limited == "queue" else None
        return WorkQueue(name="default", work_pool_id=uuid4(), concurrency_limit=limit)

    house.worker._client = cast("Any", SimpleNamespace(read_work_queue=queue))
    if limited == "pool":
        house.worker._work_pool = WorkPool(name="a-pool", type="warm", concurrency_limit=2)
    house.push("ours", 2)
    for run in house.waiting:
        run.work_queue_id = uuid4()
    await house.look()
    house.worker._woken.clear()
    house.end("ours 0")
    assert house.worker._woken.is_set()


async def test_the_end_of_a_run_that_is_retried_already_wakes_it(house: House) -> None:
    house.push("ours")
    await house.look()
    house.worker._hear()
    assert await house.look() == [], "its last process has not ended"
    house.worker._woken.clear()
    house.end("ours 0", again=True)
    assert house.worker._woken.is_set()


async def test_a_process_that_died_is_reported_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []

    async def report(_: object, __: object, message: str, ___: object = None) -> None:
        reported.append(message)

    monkeypatch.setattr(BaseWorker, "_propose_crashed_state", report)
    crashed: Any = house.worker._propose_crashed_state
    await crashed(None, "Flow run infrastructure exited with non-zero status code -9. Killed.")
    await crashed(None, "Flow run could not be submitted to infrastructure.")
    assert reported == ["Flow run could not be submitted to infrastructure."]


class FakeParent:
    """A parent that is only looked at."""

    def __init__(self) -> None:
        self.alive, self.told_to_leave = True, False

    @classmethod
    async def start(cls) -> "FakeParent":
        return cls()

    def leave(self) -> None:
        self.told_to_leave = True


async def test_runs_have_one_parent_until_it_dies_or_the_installed_code_is_another(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = ["one"]
    monkeypatch.setattr(worker_module, "Parent", FakeParent)
    monkeypatch.setattr(worker_module, "fingerprint", lambda: installed[-1])
    first: Any = await house.worker._warm()
    assert await house.worker._warm() is first
    installed.append("another")
    second: Any = await house.worker._warm()
    assert second is not first
    assert first.told_to_leave, "it ends with its last run"
    second.alive = False
    assert await house.worker._warm() is not second


class Answer(BaseModel):
    variables: dict[str, str] = {}


async def test_what_one_run_writes_into_an_answer_does_not_reach_the_next() -> None:
    asked: list[UUID] = []

    async def read(key: UUID) -> Answer:
        asked.append(key)
        return Answer()

    one, other = uuid4(), uuid4()
    kept = kept_for(60, read)
    (await kept(one)).variables["SECRET"] = "of the first run"
    assert (await kept(one)).variables == {}
    assert (await kept(other)).variables == {}
    assert asked == [one, other]
    at_once = kept_for(0, read)
    await at_once(one)
    await at_once(one)
    assert asked == [one, other, one, one]


async def test_those_who_ask_at_once_get_one_answer_and_an_error_is_not_kept() -> None:
    answers: list[Answer | Exception] = [ValueError("away"), Answer()]
    asked = 0

    async def read(_: str) -> Answer:
        nonlocal asked
        answer = answers[asked]
        asked += 1
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = kept_for(60, read)
    failed = await asyncio.gather(kept("a"), kept("a"), return_exceptions=True)
    assert [type(each) for each in failed] == [ValueError, ValueError]
    assert await asyncio.gather(kept("a"), kept("a")) == [Answer(), Answer()]
    assert asked == 2


async def test_what_a_run_is_of_is_read_while_the_run_is_looked_for(house: House) -> None:
    deployment, read = uuid4(), asyncio.Event()

    async def read_deployment(key: UUID) -> None:
        assert key == deployment
        read.set()
        raise RuntimeError("nobody is hurt by it")

    house.worker._client = SimpleNamespace(read_deployment=read_deployment)  # type: ignore[assignment]
    house.worker._hear(deployment)
    assert house.worker._woken.is_set()
    async with asyncio.timeout(10):
        await read.wait()
    await until(lambda: not house.worker._aside)


@pytest.mark.parametrize(("now", "written"), [("a", ["a"]), ("b", []), (None, [])])
async def test_the_process_of_a_run_that_hangs_before_it_begins_is_written_down(
    house: House, monkeypatch: pytest.MonkeyPatch, now: str | None, written: list[str]
) -> None:
    run, found = uuid4(), list[str]()

    async def update(_: UUID, infrastructure_pid: str) -> None:
        found.append(infrastructure_pid)

    monkeypatch.setattr(worker_module, "_BEGUN_SECONDS", 0.01)
    house.worker._update_run = update  # type: ignore[assignment]
    if now:
        house.worker._at_work[run] = now
    await house.worker._note_process(run, "a")
    assert not found, "nobody waits for it"
    await until(lambda: not house.worker._aside)
    assert found == written
