"""The Prefect server in memory, with deployments from which runs are made, unique by their keys."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from prefect.client.schemas.filters import FlowFilter
from prefect.client.schemas.objects import FlowRun, StateType

from tests.deployments.runs import FakePrefect


class DeployedPrefect(FakePrefect):
    """What dispatcher and reconciler ask, besides."""

    def __init__(self) -> None:
        super().__init__()
        self.deployments: dict[UUID, tuple[str, dict[str, Any]]] = {}
        self.faults: dict[str, list[Exception]] = {}
        """What creating its next runs raises: by branch of a pipeline, or by `redeploy`"""
        self.lost_answers: list[Exception] = []
        """What is raised although the run was made"""

    def leads(self, branch: str, stack: str | None = None, repository: str = "hello") -> UUID:
        """Where a branch leads from now on."""
        commit = {"repository": repository, "branch": branch}
        return self._deploy("pipeline", {"commit": commit, "stack": stack})

    def can_redeploy(self, repository: str = "hello") -> None:
        """Have a deployment of redeploy."""
        self._deploy("redeploy", {"repository": repository})

    def _deploy(self, flow: str, parameters: dict[str, Any]) -> UUID:
        deployment_id = uuid4()
        self.deployments[deployment_id] = (flow, parameters)
        return deployment_id

    def of(self, flow: str) -> list[FlowRun]:
        """The runs of a flow, oldest first."""
        return [run for run in self.runs.values() if run.flow_id == self.flows[flow].id]

    def commits(self) -> list[tuple[str, str]]:
        """Branch and SHA of each pipeline's run, oldest first."""
        found = [run.parameters["commit"] for run in self.of("pipeline")]
        return [(commit["branch"], commit["sha"]) for commit in found]

    async def read_deployments(
        self, *, flow_filter: FlowFilter, limit: int, offset: int = 0
    ) -> list[Any]:
        names = (flow_filter.name.any_ if flow_filter.name else None) or []
        found = [
            SimpleNamespace(id=deployment_id, parameters=parameters)
            for deployment_id, (flow, parameters) in self.deployments.items()
            if flow in names
        ]
        return found[offset : offset + limit]

    async def create_flow_run_from_deployment(
        self,
        deployment_id: UUID,
        *,
        parameters: dict[str, Any],
        idempotency_key: str | None = None,
        labels: dict[str, Any] | None = None,
        name: str = "",
        **_: Any,
    ) -> FlowRun:
        flow, defaults = self.deployments[deployment_id]
        called = flow if flow == "redeploy" else parameters["commit"]["branch"]
        if faults := self.faults.get(called):
            raise faults.pop(0)
        there = [run for run in self.of(flow) if run.idempotency_key == idempotency_key]
        if there and idempotency_key:
            return there[0]
        run = FlowRun(
            id=uuid4(),
            flow_id=self.flows[flow].id,
            name=name,
            idempotency_key=idempotency_key,
            labels=labels or {},
            parameters=defaults | parameters,
        )
        self.runs[run.id] = run
        self.set(run.id, StateType.SCHEDULED)
        if self.lost_answers:
            raise self.lost_answers.pop()
        return self.runs[run.id]
