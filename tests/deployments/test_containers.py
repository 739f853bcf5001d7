"""Containers that a run left: real ones, of runs that a server in memory knows."""

import asyncio
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from blocks.engine import Engine, Service
from deployments import containers, host_images
from deployments.containers import DeadContainers
from domain.errors import EngineUnavailable
from tests.deployments.runs import FakePrefect

WORKER = "host-a"


class Prefect(FakePrefect):
    """A server that knows no block of an engine: the engine is the one that the host has."""

    asked = 0

    async def read_block_document_by_name(self, name: str, slug: str) -> None:
        self.asked += 1
        raise ObjectNotFound(LookupError(f"{slug}/{name}"))

    def run(self, kind: StateType, worker: str = "host-b") -> UUID:
        run_id = self.add(kind.value)
        self.set(run_id, kind)
        self.change(run_id, labels={"prefect.worker.name": worker})
        return run_id


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


@pytest.fixture
def dead(prefect: Prefect, name: str) -> DeadContainers:
    return DeadContainers(f"{name}-dead", prefect.client)


@pytest.fixture
def container(engine: Engine, name: str) -> Iterator[Callable[[object], str]]:
    """Makes a container of a run; returns its name."""
    made: list[str] = []

    def make(run: object) -> str:
        labels = {"samebits.role": "test", "samebits.system": f"{name}-dead"}
        image = host_images.haproxy().name
        made.append(f"{name}-dead-{len(made)}")
        labels["samebits.run"] = str(run)
        engine.create(Service(made[-1], image, labels=labels, keep=False))
        return made[-1]

    yield make
    for each in made:
        engine.remove(each)


def test_the_containers_of_runs_that_are_over_are_removed_and_no_others(
    prefect: Prefect, dead: DeadContainers, engine: Engine, container: Callable[[object], str]
) -> None:
    ended = [StateType.COMPLETED, StateType.CRASHED, StateType.CANCELLED, StateType.SCHEDULED]
    goes_on = [StateType.RUNNING, StateType.CANCELLING]
    over = [container(prefect.run(kind)) for kind in ended] + [container(uuid4())]
    left = [container(prefect.run(kind)) for kind in goes_on] + [container("")]
    asyncio.run(dead.remove())
    assert [name for name in over if engine.container(name)] == []
    assert [name for name in left if engine.container(name)] == left


def test_those_of_a_worker_that_has_ended_are_removed_and_those_of_another_one_stay(
    prefect: Prefect, dead: DeadContainers, engine: Engine, container: Callable[[object], str]
) -> None:
    mine = container(prefect.run(StateType.RUNNING, WORKER))
    others = container(prefect.run(StateType.RUNNING))
    asyncio.run(dead.remove(ended_worker=WORKER))
    assert engine.container(mine) is None
    assert engine.container(others)


def test_the_engines_block_is_read_once_in_a_while_and_again_after_a_fault(
    prefect: Prefect, dead: DeadContainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> int:
        await dead.remove()
        return prefect.asked

    assert [asyncio.run(look()) for _ in range(3)] == [1, 1, 1]
    with monkeypatch.context() as patched:
        patched.setattr(containers, "_containers", _away)
        assert asyncio.run(look()) == 1
    assert asyncio.run(look()) == 2
    monkeypatch.setattr(dead, "_known_until", 0.0)
    assert asyncio.run(look()) == 3


def _away(*_: object) -> None:
    raise EngineUnavailable("The Docker engine went away.")


def test_a_server_that_is_away_keeps_all_of_them(
    prefect: Prefect, dead: DeadContainers, engine: Engine, container: Callable[[object], str]
) -> None:
    left = container(prefect.run(StateType.CRASHED))
    prefect.down = True
    asyncio.run(dead.remove())
    assert engine.container(left)
