"""A run hears that it is suspended, and nothing waits for that."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from prefect import flow_engine
from prefect._flow_run_suspension import FlowRunSuspensionRequest

from deployments.warm import suspending
from tests.waiting import PATIENCE


class Observing:
    """Prefect's observer: whether it was opened, and closed."""

    def __init__(self) -> None:
        self.opened, self.closed = threading.Event(), threading.Event()

    @contextmanager
    def observe(self, *_: object) -> Iterator[None]:
        self.opened.set()
        try:
            yield
        finally:
            self.closed.set()


@pytest.fixture
def observing(monkeypatch: pytest.MonkeyPatch) -> Observing:
    observing = Observing()
    monkeypatch.setattr(suspending, "observe_flow_run_suspension", observing.observe)
    return observing


def test_a_run_that_lasts_is_observed_to_its_end(
    observing: Observing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspending, "_AFTER_SECONDS", 0.01)
    with suspending.observed_meanwhile(uuid4(), FlowRunSuspensionRequest()):
        assert observing.opened.wait(10 * PATIENCE)
        assert not observing.closed.is_set()
    assert observing.closed.wait(10 * PATIENCE)


def test_for_a_short_run_nothing_is_opened(observing: Observing) -> None:
    before = threading.active_count()
    with suspending.observed_meanwhile(uuid4(), FlowRunSuspensionRequest()):
        (thread,) = [one for one in threading.enumerate() if one.name == "suspension"]
    thread.join(10 * PATIENCE)
    assert threading.active_count() == before
    assert not observing.opened.is_set()


def test_the_engine_of_a_run_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "observe_flow_run_suspension"
    monkeypatch.setattr(flow_engine, name, getattr(flow_engine, name))
    suspending.observe_meanwhile()
    assert getattr(flow_engine, name) is suspending.observed_meanwhile
