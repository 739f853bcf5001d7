"""A Prefect server in memory: flow runs with their states, tags and labels, by Prefect's rules."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import Flow, FlowRun, State, StateType, TaskRun
from prefect.states import Cancelled

from domain.errors import ServerUnavailable

SHA = "0123456789abcdef0123456789abcdef01234567"


class FakePrefect:
    """The runs of a Prefect server, and as much of its client as the loops of the service use."""

    def __init__(self) -> None:
        self.flows = {
            name: Flow(id=uuid4(), name=name, labels={})
            for name in ("pipeline", "redeploy", "prune")
        }
        self.runs: dict[UUID, FlowRun] = {}
        self.states: dict[UUID, list[State[Any]]] = {}
        self.steps: dict[UUID, list[TaskRun]] = {}
        self.asked = self.asked_for_steps = 0
        self.down = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[PrefectClient]:
        yield cast("PrefectClient", self)

    # -- what happens there -------------------------------------------------------------------

    def add(
        self,
        subject: str,
        flow: str = "pipeline",
        age: timedelta = timedelta(),
        *,
        sha: str = SHA,
        branch: str = "master",
        key: str | None = None,
        **parameters: Any,
    ) -> UUID:
        """A run that is scheduled; `age` is how long ago that was."""
        created = datetime.now(UTC) - age + timedelta(milliseconds=len(self.runs))
        commit = {"repository": "hello-service", "branch": branch, "sha": sha, "author": "Ada"}
        run = FlowRun(
            id=uuid4(),
            flow_id=self.flows[flow].id,
            name=subject,
            created=created,
            expected_start_time=created,
            idempotency_key=key,
            parameters={"commit": commit | {"subject": subject}, "stack": "prod"} | parameters,
        )
        self.runs[run.id] = run
        self.set(run.id, StateType.SCHEDULED)
        return run.id

    def set(
        self,
        run_id: UUID,
        kind: StateType,
        message: str = "",
        age: timedelta = timedelta(),
        *,
        name: str | None = None,
    ) -> None:
        """Bring a run into a state, as of `age` ago."""
        self._enter(run_id, State(type=kind, name=name, message=message), age)

    def step(self, run_id: UUID, name: str, kind: StateType, seconds: float) -> None:
        """Let a step of a run stand so."""
        number = len(self.steps.setdefault(run_id, []))
        step = TaskRun(
            id=uuid4(),
            flow_run_id=run_id,
            name=f"{name}-0",
            task_key=name,
            dynamic_key="0",
            state=State(type=kind),
            flow_run_run_count=self.runs[run_id].run_count,
            expected_start_time=datetime.now(UTC) + timedelta(seconds=number),
            total_run_time=timedelta(seconds=seconds),
        )
        self.steps[run_id].append(step)

    def change(self, run_id: UUID, **changed: Any) -> None:
        """Change what is known of a run, e.g. its tags."""
        self.runs[run_id] = self.runs[run_id].model_copy(update=changed)

    def _enter(self, run_id: UUID, state: State[Any], age: timedelta = timedelta()) -> None:
        state = state.model_copy(
            update={"id": uuid4(), "timestamp": datetime.now(UTC) - age, "name": state.name}
        )
        self.states.setdefault(run_id, []).append(state)
        self.change(
            run_id,
            state=state,
            state_id=state.id,
            run_count=self.runs[run_id].run_count + (state.type is StateType.RUNNING),
            end_time=state.timestamp if state.is_final() else None,
        )

    # -- what the client is asked -------------------------------------------------------------

    async def read_flow_runs(
        self,
        *,
        flow_filter: FlowFilter,
        flow_run_filter: FlowRunFilter,
        limit: int,
        offset: int,
        **_: object,
    ) -> list[FlowRun]:
        self.asked += 1
        if self.down:
            raise ServerUnavailable("Prefect's API does not answer.")
        names = (flow_filter.name.any_ if flow_filter.name else None) or []
        flows = {flow.id for name, flow in self.flows.items() if name in names}
        found = [
            run
            for run in self.runs.values()
            if run.flow_id in flows and _is_meant(run, flow_run_filter)
        ]
        return found[::-1][offset : offset + limit]

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        return self.runs[flow_run_id]

    async def read_flow_run_states(self, flow_run_id: UUID) -> list[State[Any]]:
        return list(self.states[flow_run_id])

    async def read_task_runs(
        self, *, flow_run_filter: FlowRunFilter, limit: int, offset: int
    ) -> list[TaskRun]:
        self.asked_for_steps += 1
        ids = (flow_run_filter.id.any_ if flow_run_filter.id else None) or []
        steps = [step for run_id in ids for step in self.steps.get(run_id, [])]
        return steps[offset : offset + limit]

    async def read_flows(self) -> list[Flow]:
        return list(self.flows.values())

    async def update_flow_run_labels(self, flow_run_id: UUID, labels: dict[str, Any]) -> None:
        self.change(flow_run_id, labels=dict(self.runs[flow_run_id].labels) | labels)

    async def set_flow_run_state(
        self, flow_run_id: UUID, state: State[Any], *, force: bool = False
    ) -> None:
        """By the rules of `prefect.server.orchestration.core_policy`."""
        run = self.runs[flow_run_id]
        now = run.state
        if now and not force:
            if now.is_final() and state.type in (StateType.CANCELLING, StateType.CRASHED):
                return
            if now.is_scheduled() and state.is_cancelling() and not run.infrastructure_pid:
                state = Cancelled()
        self._enter(flow_run_id, state)


def _is_meant(run: FlowRun, wanted: FlowRunFilter) -> bool:
    """Whether a filter lets a run through, as the server combines its parts."""
    tests: list[bool] = []
    if wanted.id:
        tests.append(run.id in (wanted.id.any_ or []))
    if wanted.idempotency_key:
        tests.append(run.idempotency_key in (wanted.idempotency_key.any_ or []))
    if wanted.state and wanted.state.type:
        types: Collection[StateType] = wanted.state.type.any_ or []
        tests.append(run.state is not None and run.state.type in types)
    for limits, time in (
        (wanted.expected_start_time, run.expected_start_time),
        (wanted.end_time, run.end_time),
    ):
        if limits and limits.after_:
            tests.append(time is not None and time >= limits.after_)
    return any(tests) if wanted.operator.name == "or_" else all(tests)
