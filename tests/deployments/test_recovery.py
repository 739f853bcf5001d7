"""What becomes of the runs that a worker had when it ended."""

import asyncio
import os
import signal
import socket
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from deployments.recovery import (
    DIED,
    STOPPED,
    end_dead,
    end_run,
    end_runs,
    recover,
    worker_of,
)
from domain.marks import restarts
from tests.deployments.runs import FakePrefect
from tests.waiting import wait_until

MINE, OTHERS = "host-a", "host-b"
LONG_AGO = timedelta(minutes=1)


class Prefect(FakePrefect):
    """A server whose runs a worker took."""

    def taken(
        self,
        worker: str,
        kind: StateType = StateType.RUNNING,
        *,
        restarted: int = 0,
        flow: str = "pipeline",
        age: timedelta = LONG_AGO,
    ) -> UUID:
        run_id = self.add(f"{kind.value} of {worker}", flow)
        self.set(run_id, kind, age=age)
        labels = {"prefect.worker.name": worker} if worker else {}
        self.change(run_id, labels=labels | {"samebits.restarts": restarted})
        return run_id

    def state(self, run_id: UUID) -> State[Any]:
        state = self.runs[run_id].state
        assert state
        return state


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


def recovered(prefect: Prefect, most: int = 2) -> None:
    async def act() -> None:
        async with prefect.client() as client:
            await recover(client, MINE, most)

    asyncio.run(act())


def ended(prefect: Prefect, why: str) -> None:
    async def act() -> None:
        async with prefect.client() as client:
            await end_runs(client, MINE, why)

    asyncio.run(act())


@pytest.mark.parametrize("kind", [StateType.PENDING, StateType.RUNNING])
@pytest.mark.parametrize("flow", ["pipeline", "redeploy"])
def test_a_run_that_was_cut_off_goes_on_by_itself(
    prefect: Prefect, kind: StateType, flow: str
) -> None:
    run_id = prefect.taken(MINE, kind, flow=flow)
    recovered(prefect)
    state = prefect.state(run_id)
    assert (state.type, state.name) == (StateType.SCHEDULED, "Restarted")
    assert "1 of at most 2" in (state.message or "")
    assert restarts(prefect.runs[run_id].labels) == 1


def test_a_run_is_started_again_as_often_as_the_setting_says_and_then_crashes(
    prefect: Prefect,
) -> None:
    run_id = prefect.taken(MINE)
    seen = []
    for _ in range(3):
        prefect.set(run_id, StateType.RUNNING)
        recovered(prefect)
        seen.append(prefect.state(run_id).name)
    assert seen == ["Restarted", "Restarted", "Crashed"]
    message = prefect.state(run_id).message or ""
    assert "started again 2 times" in message
    assert "retry" in message
    assert restarts(prefect.runs[run_id].labels) == 2


def test_with_no_restarts_a_run_crashes_at_once(prefect: Prefect) -> None:
    run_id = prefect.taken(MINE)
    recovered(prefect, 0)
    assert (prefect.state(run_id).name, prefect.state(run_id).message) == ("Crashed", DIED)


def test_what_was_being_cancelled_is_cancelled(prefect: Prefect) -> None:
    run_id = prefect.taken(MINE, StateType.CANCELLING)
    recovered(prefect)
    assert prefect.state(run_id).type is StateType.CANCELLED


def test_runs_of_other_workers_and_runs_that_wait_or_have_ended_are_left_alone(
    prefect: Prefect,
) -> None:
    left = [prefect.taken(OTHERS, kind) for kind in (StateType.RUNNING, StateType.CANCELLING)]
    left += [prefect.taken(MINE, kind) for kind in (StateType.COMPLETED, StateType.SCHEDULED)]
    before = [prefect.state(run_id).id for run_id in left]
    recovered(prefect)
    ended(prefect, STOPPED)
    assert [prefect.state(run_id).id for run_id in left] == before


def test_a_run_that_a_worker_took_and_never_began_goes_on_but_not_one_that_is_just_taken(
    prefect: Prefect,
) -> None:
    lost = prefect.taken("", StateType.PENDING)
    just_taken = prefect.taken("", StateType.PENDING, age=timedelta())
    by_hand = prefect.taken("", StateType.RUNNING)
    recovered(prefect)
    assert [prefect.state(run_id).name for run_id in (lost, just_taken, by_hand)] == [
        "Restarted",
        "Pending",
        "Running",
    ]


def test_recovering_twice_is_recovering_once(prefect: Prefect) -> None:
    run_id = prefect.taken(MINE)
    recovered(prefect)
    before = prefect.runs[run_id]
    recovered(prefect)
    assert prefect.runs[run_id] == before


def test_a_stop_ends_what_goes_on_and_says_so(prefect: Prefect) -> None:
    running, cancelling = prefect.taken(MINE), prefect.taken(MINE, StateType.CANCELLING)
    ended(prefect, STOPPED)
    assert (prefect.state(running).name, prefect.state(running).message) == ("Crashed", STOPPED)
    assert prefect.state(cancelling).type is StateType.CANCELLED


def test_a_run_that_has_gone_on_since_it_was_read_is_not_ended(prefect: Prefect) -> None:
    run = prefect.runs[prefect.taken(MINE)]
    prefect.set(run.id, StateType.COMPLETED)

    async def act() -> None:
        async with prefect.client() as client:
            await end_run(client, run, "Silent.")

    asyncio.run(act())
    assert prefect.state(run.id).name == "Completed"


@pytest.mark.parametrize(
    ("pid", "label", "worker"),
    [
        ("mine@this-host:12", "", "mine"),
        ("mine@home@this-host:12", "another", "mine@home"),
        ("this-host:12", "another", "another"),
        ("a-container", "another", "another"),
        (None, "another", "another"),
        (None, "", ""),
    ],
)
def test_the_worker_of_a_run_is_told_by_the_run_or_by_prefects_label(
    pid: str | None, label: str, worker: str
) -> None:
    labels: dict[str, Any] = {"prefect.worker.name": label} if label else {}
    run = FlowRun(flow_id=uuid4(), infrastructure_pid=pid, labels=labels)
    assert worker_of(run) == worker


def dead_ones_ended(prefect: Prefect) -> None:
    async def act() -> None:
        async with prefect.client() as client:
            await end_dead(client, MINE)

    asyncio.run(act())


def with_process(prefect: Prefect, run_id: UUID, pid: int, host: str = "", by: str = "") -> UUID:
    place = f"{host or socket.gethostname()}:{pid}"
    prefect.change(run_id, infrastructure_pid=f"{by}@{place}" if by else place)
    return run_id


@pytest.mark.parametrize("kind", [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
def test_a_run_whose_process_has_ended_without_a_word_ends(
    prefect: Prefect, kind: StateType
) -> None:
    for worker, by in ((MINE, ""), ("", MINE)):
        taken = prefect.taken(worker, kind, age=timedelta(minutes=2))
        run_id = with_process(prefect, taken, 2**22 + 1, by=by)
        dead_ones_ended(prefect)
        assert prefect.state(run_id).is_final()


def test_a_run_that_has_a_process_or_may_have_one_goes_on(prefect: Prefect) -> None:
    old = timedelta(minutes=2)
    dead = 2**22 + 1
    alive = prefect.taken(MINE, age=old)
    variables = os.environ | {"PREFECT__FLOW_RUN_ID": str(alive)}
    process = subprocess.Popen(["sleep", "60"], env=variables)
    try:
        going = [
            with_process(prefect, alive, process.pid),
            with_process(prefect, prefect.taken(MINE, age=timedelta(seconds=30)), dead),
            with_process(prefect, prefect.taken(MINE, age=old), dead, "another-host"),
            with_process(prefect, prefect.taken(OTHERS, age=old), dead),
            prefect.taken(MINE, age=old),
        ]
        # A number that another process has got since is not this run's any more.
        reused = with_process(prefect, prefect.taken(MINE, age=old), process.pid)
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", 5)
        dead_ones_ended(prefect)
    finally:
        process.kill()
        process.wait()
    assert [prefect.state(run_id).type for run_id in going] == [StateType.RUNNING] * 5
    assert prefect.state(reused).is_crashed()


def test_a_run_that_was_taken_long_ago_and_has_no_process_yet_ends(prefect: Prefect) -> None:
    taken = prefect.taken(MINE, StateType.PENDING, age=timedelta(minutes=2))
    just_taken = prefect.taken(MINE, StateType.PENDING, age=timedelta(seconds=30))
    dead_ones_ended(prefect)
    assert prefect.state(taken).is_crashed()
    assert prefect.state(just_taken).is_pending()


@pytest.mark.parametrize(
    ("kind", "seconds", "lives"),
    [
        (StateType.CANCELLING, 90, False),
        (StateType.CANCELLING, 30, True),
        (StateType.RUNNING, 90, True),
    ],
)
def test_a_process_that_was_not_told_of_its_cancellation_is_killed_after_a_while(
    prefect: Prefect, kind: StateType, seconds: int, lives: bool
) -> None:
    run_id = prefect.taken(MINE, kind, age=timedelta(seconds=seconds))
    variables = os.environ | {"PREFECT__FLOW_RUN_ID": str(run_id)}
    process = subprocess.Popen(["sleep", "60"], env=variables)
    with_process(prefect, run_id, process.pid)
    try:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", 5)
        dead_ones_ended(prefect)
        if lives:
            assert process.poll() is None
            return
        assert process.wait(5) == -signal.SIGKILL
        dead_ones_ended(prefect)
        assert prefect.state(run_id).is_cancelled()
    finally:
        process.kill()
        process.wait()
