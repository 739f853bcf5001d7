"""Hearing that a run is suspended, without waiting until it can be heard.

Prefect 3.8's engine opens a websocket for it before the first line of a flow, and looks every
0.2 s whether it is to close: 60 ms at the start of each run, and 100 ms at its end. Here that is
done aside, and begins after a while: most runs of which nothing is to be done end before.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import flow_engine
from prefect._flow_run_suspension import FlowRunSuspensionRequest, observe_flow_run_suspension

_AFTER_SECONDS = 1.0
"""What was suspended before is seen then: Prefect asks how the run stands as it begins to listen"""


@contextmanager
def observed_meanwhile(
    flow_run_id: UUID, suspension_request: FlowRunSuspensionRequest, polling_interval: float = 10
) -> Iterator[None]:
    """As Prefect's `observe_flow_run_suspension`, in a thread of its own."""
    ended = threading.Event()

    def observe() -> None:
        if ended.wait(_AFTER_SECONDS):
            return
        with observe_flow_run_suspension(flow_run_id, suspension_request, polling_interval):
            ended.wait()

    # It is at work still when the process of the run ends, and ends with it.
    threading.Thread(target=observe, name="suspension", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def observe_meanwhile() -> None:
    """Have the engine of this process do so."""
    flow_engine.observe_flow_run_suspension = observed_meanwhile  # type: ignore[attr-defined]
