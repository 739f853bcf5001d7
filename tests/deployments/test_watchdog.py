"""The watchdog, by a clock of the test's own."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import StateType, Worker

from deployments.watchdog import Watchdog
from domain.errors import ServerUnavailable
from tests.deployments.runs import FakePrefect

START = 5000.0


class Pool(FakePrefect):
    """A server with workers."""

    def __init__(self) -> None:
        super().__init__()
        self.beats: dict[str, datetime] = {}

    async def read_workers_for_work_pool(self, pool: str) -> list[Worker]:
        assert pool == "samebits"
        return [
            Worker(id=uuid4(), name=name, work_pool_id=uuid4(), last_heartbeat_time=beat)
            for name, beat in self.beats.items()
        ]

    def taken(self, worker: str, kind: StateType = StateType.RUNNING) -> UUID:
        run_id = self.add("A change")
        self.set(run_id, kind)
        if worker:
            self.change(run_id, labels={"prefect.worker.name": worker})
            self.beats[worker] = datetime(2020, 1, 1, tzinfo=UTC)  # whatever its clock says
        return run_id

    def beat(self, worker: str) -> None:
        self.beats[worker] += timedelta(seconds=10)


class Watched:
    """A watchdog, and the time that goes by."""

    def __init__(self) -> None:
        self.pool, self.now = Pool(), START
        self.dog = Watchdog(self.pool.client)

    def pass_seconds(self, seconds: int, *beating: str) -> None:
        """Look every 10 s, while these workers are alive."""
        for _ in range(0, seconds, 10):
            for worker in beating:
                self.pool.beat(worker)
            self.now += 10
            asyncio.run(self.dog.look(self.now))

    def state(self, run_id: UUID) -> str:
        state = self.pool.runs[run_id].state
        return (state and state.name) or ""

    def message(self, run_id: UUID) -> str:
        state = self.pool.runs[run_id].state
        return (state and state.message) or ""


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_run_whose_worker_is_silent_crashes_within_two_minutes_and_others_go_on(
    watched: Watched,
) -> None:
    dead, alive = watched.pool.taken("dead"), watched.pool.taken("alive")
    watched.pass_seconds(60, "dead", "alive")
    watched.pass_seconds(60, "alive")
    assert watched.state(dead) == "Running"
    watched.pass_seconds(60, "alive")
    assert (watched.state(dead), watched.state(alive)) == ("Crashed", "Running")
    assert "Its worker dead has been silent for 80 s" in watched.message(dead)
    assert "Retry" in watched.message(dead)


def test_a_run_whose_worker_the_server_does_not_know_crashes(watched: Watched) -> None:
    run_id = watched.pool.taken("gone")
    del watched.pool.beats["gone"]
    watched.pass_seconds(120)
    assert watched.state(run_id) == "Crashed"


def test_what_a_silent_worker_was_to_cancel_is_cancelled(watched: Watched) -> None:
    run_id = watched.pool.taken("dead", StateType.CANCELLING)
    watched.pass_seconds(120)
    assert watched.state(run_id) == "Cancelled"


def test_a_service_that_has_just_begun_or_whose_host_slept_gives_each_worker_its_time(
    watched: Watched,
) -> None:
    run_id = watched.pool.taken("worker")
    watched.pass_seconds(60)
    watched.now += 3600
    watched.pass_seconds(70)
    assert watched.state(run_id) == "Running"


def test_a_server_that_was_away_ends_no_run(watched: Watched) -> None:
    run_id = watched.pool.taken("worker")
    watched.pass_seconds(60)
    watched.pool.down = True
    with pytest.raises(ServerUnavailable):
        watched.pass_seconds(10)
    watched.pool.down = False
    watched.pass_seconds(70)
    assert watched.state(run_id) == "Running"
    watched.pass_seconds(20)
    assert watched.state(run_id) == "Crashed"


def test_a_run_that_was_taken_and_never_begun_crashes(watched: Watched) -> None:
    run_id = watched.pool.taken("", StateType.PENDING)
    by_hand = watched.pool.taken("", StateType.RUNNING)
    watched.pass_seconds(120)
    assert (watched.state(run_id), watched.state(by_hand)) == ("Crashed", "Running")
    assert "died before it began" in watched.message(run_id)


def test_cancelling_that_does_not_end_is_ended_though_the_worker_lives(watched: Watched) -> None:
    run_id = watched.pool.taken("alive", StateType.CANCELLING)
    watched.pass_seconds(110, "alive")
    assert watched.state(run_id) == "Cancelling"
    watched.pass_seconds(30, "alive")
    assert watched.state(run_id) == "Cancelled"


def test_a_run_that_changes_hands_is_judged_by_its_new_worker(watched: Watched) -> None:
    run_id = watched.pool.taken("dead")
    watched.pass_seconds(60)
    watched.pool.taken("alive")
    watched.pool.change(run_id, labels={"prefect.worker.name": "alive"})
    watched.pass_seconds(120, "alive")
    assert watched.state(run_id) == "Running"
