"""The order in which the system stops."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from deployments.settings import SystemSettings
from deployments.system import RECEIVER, SERVER, WORKER, System
from domain.errors import EngineUnavailable

if TYPE_CHECKING:
    from deployments.processes import Child


class Part:
    """A part that notes when it is stopped."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self._notes = name, notes

    def stop(self) -> None:
        self._notes.append(self.name)


class Noting(System):
    """A system whose parts note what is done to them."""

    def noting(self, notes: list[str], *names: str) -> "Noting":
        self.notes = notes
        self.children = [cast("Child", Part(name, notes)) for name in names]
        return self

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
