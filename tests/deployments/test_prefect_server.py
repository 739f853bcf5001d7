"""What Prefect's server does otherwise where `up` starts it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jsonschema
import pytest
from prefect.server.database import PrefectDBInterface, provide_database_interface
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.events.storage import database
from prefect.server.models.deployments import mark_deployments_ready
from prefect.server.models.work_queues import mark_work_queues_ready
from prefect.server.services import task_run_recorder
from prefect.server.utilities.messaging.memory import MemoryMessage
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings
from prefect.types._datetime import now
from sqlalchemy import func, select

from deployments import prefect_server
from deployments.prefect_server import _add_unless_lately, _check_once, _record_together
from tests.waiting import until


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


class Jobs:
    """A job queue that remembers what was put into it."""

    def __init__(self) -> None:
        self.put: list[tuple[Any, dict[str, Any]]] = []

    def add(self, job: Any, _when: object, _key: str | None) -> Any:
        async def put(**given: Any) -> str:
            self.put.append((job, given))
            return "placed"

        return put


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    queue = Jobs()
    monkeypatch.setattr(prefect_server, "_add", Jobs.add)
    monkeypatch.setattr(prefect_server, "_put_down", {})
    return queue


async def _look(jobs: Jobs, pool: str, ready: list[UUID] | None = None) -> None:
    key, queue = f"mark_work_queues_ready:work_pool:{pool}", uuid4()
    add = _add_unless_lately(jobs, mark_work_queues_ready, key=key)  # type: ignore[arg-type]
    await add(polled_work_queue_ids=[queue], ready_work_queue_ids=ready or [])
    key = f"mark_deployments_ready:work_pool:{pool}"
    add = _add_unless_lately(jobs, mark_deployments_ready, key=key)  # type: ignore[arg-type]
    await add(work_queue_ids=[queue])


async def test_that_a_pool_was_looked_at_is_written_once_in_a_while(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await _look(jobs, "one")
    await _look(jobs, "two")
    assert [job for job, _ in jobs.put] == [mark_work_queues_ready, mark_deployments_ready] * 2
    monkeypatch.setattr(prefect_server, "_LATELY_SECONDS", 0.0)
    await _look(jobs, "one")
    assert len(jobs.put) == 6


async def test_a_queue_that_nobody_had_looked_at_is_ready_at_once(jobs: Jobs) -> None:
    await _look(jobs, "one")
    returned = uuid4()
    await _look(jobs, "one", ready=[returned])
    assert jobs.put[-1][1]["ready_work_queue_ids"] == [returned]


async def test_every_other_job_is_put_down_each_time(jobs: Jobs) -> None:
    async def job() -> None: ...

    for key in ("a:work_pool:b", None):
        for _ in range(2):
            assert await _add_unless_lately(jobs, job, key=key)() == "placed"  # type: ignore[arg-type]
    assert len(jobs.put) == 4


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[PrefectDBInterface]:
    """A database with Prefect's tables of events."""
    url = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: url}):
        interface = provide_database_interface()
        async with (await interface.engine()).begin() as connection:
            for table in (interface.Event, interface.EventResource):
                await connection.run_sync(table.__table__.create)
        yield interface


async def test_sqlite_takes_events_as_postgresql_does_and_each_once(
    db: PrefectDBInterface,
) -> None:
    first, second = _event(), _event()
    for batch in ([first], [first, second]):
        async with db.session_context() as session:
            await database._write_postgres_events(session=session, events=batch)
            await session.commit()
    async with db.session_context() as session:
        count = await session.scalar(
            select(func.count()).where(db.Event.id.in_([first.id, second.id]))
        )
        resources = await session.scalar(
            select(func.count()).where(db.EventResource.event_id.in_([first.id, second.id]))
        )
    assert (count, resources) == (2, 4)


async def test_states_of_steps_that_come_at_once_are_written_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[list[ReceivedEvent]] = []

    async def write(events: list[ReceivedEvent]) -> None:
        written.append(events)

    monkeypatch.setattr(task_run_recorder, "record_bulk_task_run_events", write)
    events = [_event("prefect.task-run.Running") for _ in range(3)]
    async with _record_together(write_batch_size=1, flush_every=5) as handle:
        for event in events:
            await handle(MemoryMessage(event.model_dump_json(), {}))
        assert written == []
        await until(lambda: bool(written))
    assert written == [events]


def test_a_user_who_has_set_how_many_states_are_written_together_gets_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[float, ...]] = []
    monkeypatch.setattr(prefect_server, "_record", lambda *how, **_: asked.append(how))
    _record_together(write_batch_size=30, flush_every=2, max_persist_retries=1)
    assert asked == [(30, 2)]


def _event(name: str = "prefect.flow-run.Running") -> ReceivedEvent:
    return ReceivedEvent(
        id=uuid4(),
        occurred=now("UTC"),
        received=now("UTC"),
        event=name,
        resource={"prefect.resource.id": "prefect.run.one", "prefect.orchestration": "client"},
        related=[{"prefect.resource.id": "prefect.flow.one", "prefect.resource.role": "flow"}],
        payload={"a": {"b": 1}},
    )
