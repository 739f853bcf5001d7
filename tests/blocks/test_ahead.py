"""What a run gets ready before its steps need it."""

import logging
from collections.abc import Callable
from types import TracebackType

import pytest

from domain.errors import EngineUnavailable, RepositoryUnreachable, UnknownBlock
from flows import ahead


class Host:
    """Everything that is got ready, in the order in which it was; it is each block itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.away: Exception | None = None
        monkeypatch.setattr(ahead, "read_meanwhile", self._read)
        monkeypatch.setattr(ahead, "load", lambda _kind, _name: self)
        monkeypatch.setattr(ahead, "Engine", lambda _: self)
        monkeypatch.setattr(ahead, "stack_called", self._stack)
        monkeypatch.setattr(ahead, "have_limit", self.done.append)

    def _read(self, *names: str | None, then: Callable[[], None]) -> None:
        self.done.append(f"blocks {' '.join(filter(None, names))}")
        then()

    def _stack(self, name: str) -> None:
        if name != "stage":
            raise UnknownBlock(f"There is no stack {name}.")

    def fetch(self, name: str, branch: str) -> None:
        if self.away:
            raise self.away
        self.done.append(f"fetched {branch} of {name}")

    def __enter__(self) -> None:
        self.done.append("engine")

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None: ...


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_a_pipeline_has_engine_commit_and_limit_ready(host: Host) -> None:
    ahead.get_ready("hello", "master", "stage")
    assert host.done == [
        "blocks hello default stage",
        "engine",
        "fetched master of hello",
        "stack-stage",
    ]


def test_what_builds_nothing_asks_no_git_and_what_goes_nowhere_has_no_limit(host: Host) -> None:
    ahead.get_ready("hello", "", "stage")
    ahead.get_ready("hello", "master", None)
    assert host.done == [
        *("blocks hello default stage", "engine", "stack-stage"),
        *("blocks hello default", "engine", "fetched master of hello"),
    ]


def test_a_stack_that_is_not_there_has_no_limit_made(host: Host) -> None:
    ahead.get_ready("hello", "", "stge")
    assert host.done == ["blocks hello default stge", "engine"]


@pytest.mark.parametrize(
    "error", [RepositoryUnreachable("It is away."), EngineUnavailable("away"), KeyError("HOME")]
)
def test_what_goes_wrong_is_left_to_the_step(
    host: Host, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    host.away = error
    with caplog.at_level(logging.DEBUG, "samebits.ahead"):
        ahead.get_ready("hello", "master", "stage")
    assert [record.message for record in caplog.records] == ["not all is ready"]
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
