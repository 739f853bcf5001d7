"""What ECS tells of deployments: a service's `deployments`, and its service deployments.

Sources: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Deployment.html
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ServiceDeployment.html
"""

import math
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.aws.tasks import Revision, Task

FINAL = ("SUCCESSFUL", "STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED")
_MOST_PAUSE_SECONDS = 3.0


def now() -> datetime:
    """The time, as moto serializes it."""
    return datetime.now(UTC)


@dataclass
class Rollout:
    """An entry of a service's `deployments`: a revision and its tasks."""

    revision: Revision
    desired: int
    launch_type: str
    id: str = field(default_factory=lambda: f"ecs-svc/{secrets.randbelow(10**19):019}")
    status: str = "PRIMARY"
    state: str = "IN_PROGRESS"
    reason: str = ""
    failed: int = 0
    """Tasks that failed one after the other"""
    tasks: list[Task] = field(default_factory=list)
    not_before: float = 0.0
    """Monotonic time before which no task is started"""

    def __post_init__(self) -> None:
        self.reason = f"ECS deployment {self.id} in progress."
        self.created_at = self.updated_at = now()

    def wanted(self) -> list[Task]:
        """The tasks that run or are to run."""
        return [task for task in self.tasks if task.wanted]

    def good(self, settle_seconds: float) -> list[Task]:
        """The tasks that run well."""
        return [task for task in self.tasks if task.good(settle_seconds)]

    @property
    def running(self) -> int:
        """Tasks whose lastStatus is RUNNING."""
        return sum(task.last_status == "RUNNING" for task in self.tasks)

    @property
    def pending(self) -> int:
        """Tasks on their way to RUNNING."""
        return sum(task.last_status in ("PROVISIONING", "PENDING") for task in self.wanted())

    def enter(self, state: str, reason: str) -> None:
        """It is in another rolloutState."""
        self.state, self.reason, self.updated_at = state, reason, now()

    def count_failure(self) -> None:
        """A task has failed; the next one waits longer each time."""
        self.failed += 1
        self.not_before = time.monotonic() + min(_MOST_PAUSE_SECONDS, 0.05 * 2**self.failed)

    def describe(self) -> dict[str, Any]:
        """As DescribeServices gives it."""
        return {
            "id": self.id,
            "status": self.status,
            "taskDefinition": self.revision.task_definition,
            "desiredCount": self.desired,
            "pendingCount": self.pending,
            "runningCount": self.running,
            "failedTasks": self.failed,
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
            "launchType": self.launch_type,
            "rolloutState": self.state,
            "rolloutStateReason": self.reason,
        }


@dataclass(frozen=True)
class Settings:
    """A service's deploymentConfiguration, read.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DeploymentConfiguration.html
    """

    given: Mapping[str, Any]

    @property
    def breaker(self) -> bool:
        """Whether failed tasks end a deployment."""
        return bool((self.given.get("deploymentCircuitBreaker") or {}).get("enable"))

    @property
    def rolls_back(self) -> bool:
        """Whether a deployment that failed is rolled back."""
        return bool((self.given.get("deploymentCircuitBreaker") or {}).get("rollback"))

    @property
    def resets(self) -> bool:
        """Whether a task that runs well resets the count of failures."""
        breaker = self.given.get("deploymentCircuitBreaker") or {}
        return bool(breaker.get("resetOnHealthyTask", True))

    @property
    def rolling(self) -> bool:
        """Whether tasks are replaced one by one, and not all traffic turned."""
        return self.given.get("strategy", "ROLLING") == "ROLLING"

    def least_good(self, desired: int) -> int:
        """How many tasks must run well at any time."""
        return math.ceil(desired * self.given.get("minimumHealthyPercent", 100) / 100)

    def most(self, desired: int) -> int:
        """How many tasks may run at any time."""
        return math.floor(desired * self.given.get("maximumPercent", 200) / 100)

    def shifts(self) -> list[tuple[float, float]]:
        """The steps of turning the traffic: percent, and minutes to stay there."""
        last = (100.0, float(self.given.get("bakeTimeInMinutes", 0)))
        strategy = self.given.get("strategy")
        if strategy == "CANARY":
            step = self.given.get("canaryConfiguration") or {}
            minutes = step.get("canaryBakeTimeInMinutes", 10)
            return [(step.get("canaryPercent", 5.0), float(minutes)), last]
        if strategy == "LINEAR":
            step = self.given.get("linearConfiguration") or {}
            percent = step.get("stepPercent", 10.0)
            minutes = float(step.get("stepBakeTimeInMinutes", 6))
            count = math.ceil(100 / percent) - 1
            return [(percent * (n + 1), minutes) for n in range(count)] + [last]
        return [last]


@dataclass
class ServiceDeployment:
    """One change of a service, from request to end."""

    rollout: Rollout
    sources: list[Rollout]
    settings: Settings
    arn: str = ""
    status: str = "PENDING"
    status_reason: str = ""
    stage: str = ""
    failures: int = 0
    tripped: bool = False
    shift: int = 0
    """Which step of turning the traffic is next"""
    baked_at: float = 0.0
    """Monotonic time when that step is over"""
    rollback: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        service = self.rollout.revision.service_arn
        self.arn = f"{service.replace(':service/', ':service-deployment/')}/{uuid.uuid4().hex[:21]}"
        self.times = {"createdAt": now(), "updatedAt": now()}

    @property
    def threshold(self) -> int:
        """How many failed tasks trip the circuit breaker.

        Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html
        """
        return max(3, min(200, math.ceil(0.5 * self.rollout.desired)))

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    @property
    def rolling_back(self) -> bool:
        """Whether it is on its way back."""
        return self.status.startswith("ROLLBACK") and not self.final

    def enter(self, status: str, reason: str = "") -> None:
        """It is in another status."""
        self.status, self.status_reason = status, reason or self.status_reason
        self.times["updatedAt"] = now()
        if status == "IN_PROGRESS":
            self.times["startedAt"] = now()
        if self.final:
            self.times["finishedAt"] = now()

    def brief(self) -> dict[str, Any]:
        """As ListServiceDeployments gives it."""
        revision = self.rollout.revision
        times = {key: value for key, value in self.times.items() if key != "updatedAt"}
        return {
            "serviceDeploymentArn": self.arn,
            "serviceArn": revision.service_arn,
            "clusterArn": revision.cluster_arn,
            "targetServiceRevisionArn": revision.arn,
            "status": self.status,
            **({"statusReason": self.status_reason} if self.status_reason else {}),
            **times,
        }

    def describe(self) -> dict[str, Any]:
        """As DescribeServiceDeployments gives it."""
        brief = self.brief()
        brief.pop("targetServiceRevisionArn")
        return {
            **brief,
            "updatedAt": self.times["updatedAt"],
            "deploymentConfiguration": dict(self.settings.given),
            "deploymentCircuitBreaker": self._breaker(),
            "targetServiceRevision": _counts(self.rollout),
            "sourceServiceRevisions": [_counts(rollout) for rollout in self.sources],
            **({"lifecycleStage": self.stage} if self.stage else {}),
            **({"rollback": dict(self.rollback)} if self.rollback else {}),
        }

    def _breaker(self) -> dict[str, Any]:
        if not self.settings.breaker:
            return {"status": "DISABLED", "failureCount": 0, "threshold": 0}
        status = "MONITORING_COMPLETE" if self.final else "MONITORING"
        return {
            "status": "TRIGGERED" if self.tripped else status,
            "failureCount": self.failures,
            "threshold": self.threshold,
        }


def _counts(rollout: Rollout) -> dict[str, Any]:
    return {
        "arn": rollout.revision.arn,
        "requestedTaskCount": rollout.desired,
        "runningTaskCount": rollout.running,
        "pendingTaskCount": rollout.pending,
    }
