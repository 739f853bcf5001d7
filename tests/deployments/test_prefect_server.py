"""What Prefect's server does otherwise where `up` starts it."""

from typing import Any

import jsonschema
import pytest

from deployments import prefect_server
from deployments.prefect_server import _check_once


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What jsonschema itself was asked to check."""
    found: list[Any] = []

    def check(schema: Any, **how: Any) -> None:
        found.append(schema)
        original(schema, **how)

    original = prefect_server._check
    monkeypatch.setattr(prefect_server, "_check", check)
    prefect_server._checked.cache_clear()
    return found


def test_a_schema_that_was_right_is_not_checked_again(checked: list[Any]) -> None:
    for _ in range(3):
        _check_once({"type": "object"})
    _check_once({"type": "string"})
    _check_once({"type": "string"}, format_checker=object())
    assert checked == [{"type": "object"}, {"type": "string"}, {"type": "string"}]


def test_what_is_no_schema_is_refused_each_time(checked: list[Any]) -> None:
    for _ in range(2):
        with pytest.raises(jsonschema.SchemaError):
            _check_once({"type": 7})
    assert len(checked) == 2
