"""RunTask: tasks of no service, really running on the local engine.

It stands for a container instance: where its definition says so, a task has the network of the host
and folders of it, as ECS gives them with the launch type EC2.

Sources: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/bind-mounts.html
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any

from moto.ecs.models import TaskDefinition

from tests.aws.engine import TaskEngine
from tests.aws.tasks import Revision, Task


class StandaloneTasks:
    """Tasks that were asked for one by one. Each method is called with the agent's lock held."""

    def __init__(self, engine: TaskEngine, pool: Executor) -> None:
        self._engine, self._pool = engine, pool
        self.tasks: list[Task] = []

    def run(
        self,
        definition: TaskDefinition,
        cluster_arn: str,
        overrides: Mapping[str, Any],
        started_by: str,
        launch_type: str,
    ) -> Task:
        """Start a task."""
        changes = {one["name"]: one for one in overrides.get("containerOverrides", [])}
        revision = Revision(
            arn="",
            service_arn="",
            cluster_arn=cluster_arn,
            family=definition.family,
            task_definition=definition.arn,
            containers=[
                _overridden(one, changes.get(one["name"], {}))
                for one in definition.container_definitions
            ],
            created_at=datetime.now(UTC),
            folders={
                volume["name"]: volume["host"]["sourcePath"]
                for volume in definition.volumes
                if volume.get("host")
            },
            on_host_network=definition.network_mode == "host",
        )
        task = Task(self._engine, revision, started_by, service="", launch_type=launch_type)
        self.tasks.append(task)
        self._pool.submit(task.start)
        return task

    def reconcile(self) -> None:
        """See what has become of them, and end those that are to end."""
        for task in self.tasks:
            task.look()
            if not task.wanted and task.last_status == "RUNNING":
                task.last_status = "DEACTIVATING"
                self._pool.submit(task.end, lambda: True)

    def stop_task(self, task: Task, reason: str, code: str) -> None:
        """End a task."""
        task.mark(reason, code)


def _overridden(definition: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A container definition with what RunTask says of it."""
    pairs = [*definition.get("environment", []), *change.get("environment", [])]
    environment = {pair["name"]: pair for pair in pairs}
    command = change.get("command") or definition.get("command")
    return {**definition, "command": command, "environment": list(environment.values())}
