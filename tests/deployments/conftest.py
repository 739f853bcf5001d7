"""What the tests of the loops share."""

import pytest

from deployments import dispatcher


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event is emitted here: where Prefect knows no server, it would start one for it."""
    monkeypatch.setattr(dispatcher, "emit_event", lambda **_: None)
