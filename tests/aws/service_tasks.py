"""The tasks of one service: started, ended, told of."""

import uuid
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from moto.ecs.models import Service

from tests.aws.balancer import Targeting
from tests.aws.engine import TaskEngine
from tests.aws.rollouts import Rollout, now
from tests.aws.tasks import Task

_MOST_EVENTS = 100


@dataclass(frozen=True)
class Workshop:
    """What all services of an agent share."""

    engine: TaskEngine
    pool: Executor
    held: set[str]
    """Names of the services whose deployments do not progress"""
    settle_seconds: float
    """How long a task without a health check runs before it counts as running well"""
    minute_seconds: float
    """How long a minute of bake time is"""


class ServiceTasks:
    """Starts and ends tasks, and writes the service's events."""

    def __init__(self, workshop: Workshop, service: Service) -> None:
        self._shop, self.service = workshop, service
        self.targeting = Targeting()
        self.tasks: list[Task] = []
        """All that ever ran, oldest first"""
        self._events: list[dict[str, Any]] = []

    def stop_task(self, task: Task, reason: str, code: str = "ServiceSchedulerInitiated") -> None:
        """End a task: first it gets no new requests, then its containers are stopped."""
        target = self._target(task)
        self.targeting.withdraw(target)
        task.mark(reason, code)
        self._shop.pool.submit(task.end, lambda: self.targeting.drained(target))

    def _start(self, rollout: Rollout, count: int) -> None:
        service, shop = self.service, self._shop
        new = [Task(shop.engine, rollout.revision, rollout.id, service.name) for _ in range(count)]
        rollout.tasks = [one for one in rollout.tasks if not one.settled] + new
        self.tasks += new
        for task in new:
            shop.pool.submit(task.start)
        self._tell(f"has started {count} tasks: {_names(new)}.")

    def _drop(self, rollout: Rollout, count: int) -> None:
        """End tasks of a rollout; those that do not run well first."""
        order = sorted(rollout.wanted(), key=lambda one: one.good(self._shop.settle_seconds))
        chosen = order[: max(0, count)]
        for task in chosen:
            self.stop_task(task, f"Scaling activity initiated by (deployment {rollout.id})")
        if chosen:
            self._tell(f"has stopped {len(chosen)} running tasks: {_names(chosen)}.")

    def _target(self, task: Task) -> str:
        """`address:port` of the container that the service's load balancer names."""
        named = next(iter(self.service.load_balancers), {})
        name, port = named.get("containerName"), named.get("containerPort")
        for one in task.revision.containers:
            for mapping in one.get("portMappings") or []:
                name, port = name or one["name"], port or mapping["containerPort"]
        return f"{task.address(name)}:{port}"

    def _tell(self, message: str) -> None:
        event = {
            "id": str(uuid.uuid4()),
            "createdAt": now(),
            "message": f"(service {self.service.name}) {message}",
        }
        self._events = [event, *self._events][:_MOST_EVENTS]


def _names(tasks: list[Task]) -> str:
    return " ".join(f"(task {task.id})" for task in tasks)
