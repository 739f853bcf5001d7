"""What Prefect's API tells of a run that has ended is worked out once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect.server.database import orm_models as tables
from prefect.server.schemas.core import FlowRunPolicy
from prefect.server.schemas.responses import FlowRunResponse
from prefect.server.schemas.states import StateType

from deployments import prefect_responses
from deployments.prefect_responses import tell_of_ended_runs_once

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = FlowRunResponse.__dict__["model_validate"]
    monkeypatch.setattr(prefect_responses, "_kept", {})
    tell_of_ended_runs_once()
    yield
    FlowRunResponse.model_validate = before  # type: ignore[method-assign]


def ended(**more: Any) -> tables.FlowRun:
    pool = tables.WorkPool(id=uuid4(), name="a pool", type="warm")
    queue = tables.WorkQueue(id=uuid4(), name="a queue", work_pool=pool)
    fields: dict[str, Any] = {
        "id": uuid4(),
        "name": "a run",
        "flow_id": uuid4(),
        "state_id": uuid4(),
        "state_type": StateType.COMPLETED,
        "state_name": "Completed",
        "updated": LONG_AGO,
        "created": LONG_AGO,
        "state_timestamp": LONG_AGO,
        "start_time": LONG_AGO,
        "expected_start_time": LONG_AGO,
        "total_run_time": timedelta(seconds=3),
        "run_count": 1,
        "parameters": {"a": 1},
        "context": {},
        "tags": ["one"],
        "labels": {},
        "job_variables": {},
        "auto_scheduled": False,
        "empirical_policy": FlowRunPolicy(),
        "work_queue": queue,
    }
    return tables.FlowRun(**fields | more)


def told(run: tables.FlowRun) -> dict[str, Any]:
    return FlowRunResponse.model_validate(run, from_attributes=True).model_dump(mode="json")


def told_by_prefect(run: tables.FlowRun) -> dict[str, Any]:
    validate = prefect_responses._validate
    return validate(FlowRunResponse, run, from_attributes=True).model_dump(mode="json")  # type: ignore[no-any-return]


def test_it_is_told_as_prefect_tells_it_and_made_once() -> None:
    run = ended()
    first = told(run)
    assert first == told_by_prefect(run)
    assert first["work_pool_name"] == "a pool"
    assert told(run) is first


def test_what_changes_is_told() -> None:
    run = ended()
    told(run)
    changes: list[tuple[Any, dict[str, Any]]] = [
        (run, {"name": "another", "updated": LONG_AGO + timedelta(milliseconds=1)}),
        (run, {"state_id": uuid4(), "state_name": "Cached"}),
        (run.work_queue, {"name": "another queue"}),
        (run.work_queue.work_pool, {"name": "another pool"}),
        (run, {"work_queue": None}),
    ]
    for changed, fields in changes:
        before = told(run)
        for name, value in fields.items():
            setattr(changed, name, value)
        assert told(run) == told_by_prefect(run) != before


@pytest.mark.parametrize(
    "fields",
    [
        {"state_type": StateType.RUNNING},
        {"state_type": StateType.SCHEDULED},
        {"state_type": None},
        {"updated": datetime.now(UTC) + timedelta(hours=1)},
    ],
)
def test_what_goes_on_or_has_just_ended_is_worked_out_each_time(fields: dict[str, Any]) -> None:
    run = ended(**fields)
    assert told(run) is not told(run)
    run.tags = ["another"]
    assert told(run)["tags"] == ["another"]


def test_another_form_of_it_is_made_as_ever() -> None:
    response = FlowRunResponse.model_validate(ended(), from_attributes=True)
    assert response.model_dump(include={"name"}) == {"name": "a run"}
    assert response.model_dump(mode="json", include={"name"}) == {"name": "a run"}
    assert isinstance(response.model_dump()["id"], type(uuid4()))


def test_of_so_many_runs_those_are_kept_that_were_asked_for_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefect_responses, "_MOST", 2)
    a, b, c = ended(), ended(), ended()
    kept = told(a)
    for run in (b, a, c):
        told(run)
    assert list(prefect_responses._kept) == [a.id, c.id]
    assert told(a) is kept
