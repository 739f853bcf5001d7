"""What a run that deploys asks of its own record."""

from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from blocks import prefect_run
from blocks.prefect_run import begin_to_deploy
from domain.errors import RunEnded, Superseded
from domain.marks import gives_way


class Server:
    """A server with one run."""

    def __init__(self) -> None:
        self.run = FlowRun(
            id=uuid4(), flow_id=uuid4(), run_count=1, state=State(type=StateType.RUNNING)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def change(self, **changed: Any) -> None:
        self.run = self.run.model_copy(update=changed)

    def read_flow_run(self, _: UUID) -> FlowRun:
        return self.run

    def update_flow_run(self, _: UUID, tags: list[str]) -> None:
        self.change(tags=tags)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(prefect_run, "get_client", lambda **_: made)
    monkeypatch.setattr(prefect_run, "run_id", lambda: str(made.run.id))
    return made


def test_a_run_that_goes_on_begins_to_deploy(server: Server) -> None:
    begin_to_deploy()
    assert server.run.tags == ["deploys:1"]


@pytest.mark.parametrize("kind", [StateType.CANCELLING, StateType.CANCELLED, StateType.FAILED])
def test_a_run_that_others_have_ended_deploys_nothing(server: Server, kind: StateType) -> None:
    server.change(state=State(type=kind))
    with pytest.raises(RunEnded, match="nothing is deployed"):
        begin_to_deploy()


def test_a_second_try_of_the_step_asks_again_whether_the_run_goes_on(server: Server) -> None:
    begin_to_deploy()
    begin_to_deploy()
    server.change(state=State(type=StateType.CANCELLING))
    with pytest.raises(RunEnded):
        begin_to_deploy()


def test_a_run_that_is_to_give_way_says_to_which_commit(server: Server) -> None:
    server.change(labels=gives_way(1, "2" * 40), state=State(type=StateType.CANCELLING))
    with pytest.raises(Superseded, match="22222222"):
        begin_to_deploy()
