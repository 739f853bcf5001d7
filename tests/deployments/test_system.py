"""The order in which the system stops."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from blocks.engine import Engine, Service
from deployments import host_images
from deployments.settings import SystemSettings
from deployments.system import ENGINE, RECEIVER, SERVER, WORKER, Starting, System
from domain.errors import EngineUnavailable

if TYPE_CHECKING:
    from deployments.processes import Child


class Part:
    """A part that notes when it is stopped."""

    age_seconds = 60.0
    running = True
    log = Path("its.log")

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self._notes = name, notes

    def stop(self) -> None:
        self._notes.append(self.name)


class Noting(System):
    """A system whose parts note what is done to them."""

    def noting(self, notes: list[str], *names: str) -> "Noting":
        self.notes, self.has_answered = notes, True
        self.children = [cast("Child", Part(name, notes)) for name in names]
        return self

    def _engine(self) -> None:
        self.notes.append("engine starts")

    def _worker(self, *, restart: bool = True) -> Starting:
        self.notes.append(f"worker starts, restart={restart}")
        return cast("Starting", None)  # which nobody may wait for

    def _each_stack(self, action: str) -> None:
        self.notes.append(action)
        raise EngineUnavailable("The engine is away.")

    def _end_runs(self) -> None:
        self.notes.append("runs")


@pytest.mark.parametrize(
    "children", [(SERVER, RECEIVER, WORKER), (RECEIVER, WORKER, SERVER), (WORKER, SERVER, RECEIVER)]
)
def test_the_server_stops_last_whatever_was_started_again_and_whatever_resists(
    tmp_path: Path, children: tuple[str, ...]
) -> None:
    notes: list[str] = []
    said: list[str] = []
    Noting(SystemSettings(home=tmp_path), said.append).noting(notes, *children)._stop()
    assert notes == [WORKER, RECEIVER, "halt", "runs", SERVER]
    assert said == ["while stopping: The engine is away."]


def test_a_server_that_has_not_answered_yet_is_asked_for_nothing(tmp_path: Path) -> None:
    notes: list[str] = []
    said: list[str] = []
    system = Noting(SystemSettings(home=tmp_path), said.append).noting(notes, SERVER)
    system.has_answered = False
    system._stop()
    assert (notes, said) == ([SERVER], [])


def test_an_engine_that_was_started_here_and_dies_is_started_again_before_what_needs_it(
    tmp_path: Path,
) -> None:
    notes: list[str] = []
    system = Noting(SystemSettings(home=tmp_path), notes.append).noting(notes, SERVER, WORKER)
    system.engine = cast("Child", Part(ENGINE, notes))
    system.look_after()
    assert notes == []
    for part in (system.engine, system.children[1]):
        cast("Any", part).running = False
    system.look_after()
    assert notes[1:] == [ENGINE, "engine starts"]
    assert "dockerd has ended by itself: it is started again" in notes[0]
    assert [child.name for child in system.children] == [SERVER, WORKER]


def test_of_parts_that_died_together_the_server_is_started_first(tmp_path: Path) -> None:
    notes: list[str] = []
    system = Noting(SystemSettings(home=tmp_path), lambda _: None).noting(
        notes, RECEIVER, WORKER, SERVER
    )
    for part in system.children:
        cast("Any", part).running = False
    ended = system.ended()
    assert ended
    assert ended.name == SERVER


def test_a_worker_that_dies_alone_is_started_again_without_its_runs(tmp_path: Path) -> None:
    notes: list[str] = []
    system = Noting(SystemSettings(home=tmp_path), lambda _: None).noting(notes, SERVER, WORKER)
    cast("Any", system.children[1]).running = False
    system.look_after()
    assert notes == [WORKER, "worker starts, restart=False"]


def test_a_registry_that_has_ended_is_started_again_and_so_are_the_stacks(
    tmp_path: Path, engine: Engine, name: str
) -> None:
    said: list[str] = []
    notes: list[str] = []
    settings = SystemSettings(home=tmp_path, name=f"{name}-ends")
    system = Noting(settings, said.append).noting(notes, SERVER)
    system.has_registry = True
    container = f"{name}-ends-registry"
    engine.create(Service(container, host_images.registry().name, labels={}))
    try:
        engine.stop(container, grace_seconds=0)
        system.look_after()
        found = engine.container(container)
        assert found
        assert found.running
        assert said[0] == f"The registry {container} has ended: it is started again."
        assert notes == ["revive"]
    finally:
        engine.remove(container)
