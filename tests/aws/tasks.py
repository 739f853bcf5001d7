"""One task: the containers of its task definition, really running.

Sources: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Task.html
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-lifecycle-explanation.html
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import docker.errors

from tests.aws.container_logs import keep_log
from tests.aws.engine import CannotPull, TaskEngine

_DRAIN_SECONDS = 10


@dataclass(frozen=True)
class Revision:
    """A service revision: what is to run."""

    arn: str
    service_arn: str
    cluster_arn: str
    family: str
    task_definition: str
    """ARN"""
    containers: list[dict[str, Any]]
    """Container definitions"""
    created_at: datetime
    folders: Mapping[str, str] = field(default_factory=dict)
    """Of the host, by the name of their volume"""
    on_host_network: bool = False


@dataclass
class RunningContainer:
    """A container of a task."""

    definition: Mapping[str, Any]
    id: str = ""
    digest: str = ""
    status: str = "PENDING"
    health: str = "UNKNOWN"
    address: str = ""
    exit_code: int | None = None
    reason: str = ""

    @property
    def essential(self) -> bool:
        """Whether the task ends when it does."""
        return bool(self.definition.get("essential", True))

    @property
    def checked(self) -> bool:
        """Whether it says how healthy it is."""
        return bool(self.definition.get("healthCheck"))

    def see(self, state: Mapping[str, Any]) -> None:
        """Take over what the engine says."""
        self.address = state["Address"] or self.address
        self.health = (state.get("Health") or {}).get("Status", "unknown").upper()
        if self.health not in ("HEALTHY", "UNHEALTHY"):
            self.health = "UNKNOWN"
        if state["Status"] in ("exited", "dead"):
            self.status, self.exit_code = "STOPPED", state["ExitCode"]
            if state.get("OOMKilled"):
                self.reason = "OutOfMemoryError: Container killed due to memory usage"
        elif state["Status"] == "running":
            self.status = "RUNNING"


@dataclass
class Task:
    """A task; `start` and `end` take long and belong into a thread."""

    engine: TaskEngine
    revision: Revision
    started_by: str
    """Id of the deployment"""
    service: str
    """Empty for a task of no service"""
    launch_type: str = "FARGATE"
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    last_status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    stopped_reason: str = ""
    stop_code: str = ""
    was_good: bool = False
    """Whether it has once been counted as running well"""
    accounted: bool = False
    """Whether its end has been counted"""

    def __post_init__(self) -> None:
        self.containers = [RunningContainer(one) for one in self.revision.containers]
        self.times = {"createdAt": datetime.now(UTC)}
        self._running_since = 0.0
        self._lock = threading.Lock()

    @property
    def task_arn(self) -> str:
        """As moto's own tasks have it."""
        return f"{self.revision.cluster_arn.replace(':cluster/', ':task/')}/{self.id}"

    @property
    def group(self) -> str:
        """What it belongs to."""
        return f"service:{self.service}" if self.service else f"family:{self.revision.family}"

    @property
    def wanted(self) -> bool:
        """Whether it is to run."""
        return self.desired_status == "RUNNING"

    @property
    def failed(self) -> bool:
        """Whether it ended without having been told to by scheduler or user."""
        return self.stop_code in ("TaskFailedToStart", "EssentialContainerExited", "Unhealthy")

    @property
    def settled(self) -> bool:
        """Whether it has ended, and nobody has to count that any more."""
        return self.last_status == "STOPPED" and (self.accounted or not self.failed)

    @property
    def health(self) -> str:
        """HEALTHY, UNHEALTHY or UNKNOWN, as the essential containers with a check say."""
        said = {one.health for one in self.containers if one.essential and one.checked}
        for word in ("UNHEALTHY", "UNKNOWN", "HEALTHY"):
            if word in said:
                return word
        return "UNKNOWN"

    def good(self, settle_seconds: float) -> bool:
        """Whether it runs well: healthy, or where nothing says so, running for a while."""
        if not self.wanted or self.last_status != "RUNNING":
            return False
        if any(one.essential and one.checked for one in self.containers):
            return self.health == "HEALTHY"
        return time.monotonic() - self._running_since > settle_seconds

    def address(self, container: str | None) -> str:
        """IP address of a container, by name, else of the first one."""
        for one in self.containers:
            if container in (None, one.definition["name"]):
                return one.address
        return ""

    def start(self) -> None:
        """Pull the images and start the containers."""
        with self._lock:
            try:
                self._start()
            except (CannotPull, docker.errors.APIError) as error:
                text = str(error)
                if not isinstance(error, CannotPull):
                    text = f"CannotStartContainerError: {text}"
                    self.containers[0].reason = text
                self.mark(text, "TaskFailedToStart")
        if not self.wanted:
            self.end(lambda: True)

    def _start(self) -> None:
        self.last_status = "PENDING"
        images = []
        for one in self.containers:
            if not self.wanted:
                return
            try:
                pulled = self.engine.pull(one.definition["image"])
            except CannotPull as error:
                one.reason = str(error)
                raise
            one.digest = pulled.digest
            images.append(pulled.image_id)
        for one, image in zip(self.containers, images, strict=True):
            if not self.wanted:
                return
            name = f"{self.id[:12]}-{one.definition['name']}"
            one.id = self.engine.run(
                name,
                image,
                one.definition,
                folders=self.revision.folders,
                on_host_network=self.revision.on_host_network,
            )
        self.times["startedAt"] = datetime.now(UTC)
        self._running_since = time.monotonic()
        self.last_status = "RUNNING"

    def look(self) -> None:
        """See what the engine says; an essential container that is no good ends the task."""
        if self.last_status != "RUNNING":
            return
        for one in self.containers:
            if one.status != "STOPPED":
                one.see(self.engine.look(one.id))
        if not self.wanted:
            return
        if any(one.essential and one.status == "STOPPED" for one in self.containers):
            self.mark("Essential container in task exited", "EssentialContainerExited")
        elif self.health == "UNHEALTHY":
            self.mark("Task failed container health checks", "Unhealthy")

    def mark(self, reason: str, code: str) -> None:
        """It is to stop."""
        self.desired_status = "STOPPED"
        self.stopped_reason, self.stop_code = reason, code
        self.times["stoppingAt"] = datetime.now(UTC)

    def end(self, drained: Callable[[], bool]) -> None:
        """Stop the containers, once the requests that are under way have ended."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while not drained() and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock:
            if self.last_status == "STOPPED":
                return
            self.last_status = "STOPPING"
            for one in self.containers:
                if one.id:
                    code = self.engine.end(one.id, one.definition)
                    keep_log(one.definition, self.id, self.engine.log(one.id))
                    one.exit_code = code if one.exit_code is None else one.exit_code
                    self.engine.remove(one.id)
                one.status = "STOPPED"
            self.times["stoppedAt"] = datetime.now(UTC)
            self.last_status = "STOPPED"

    def describe(self) -> dict[str, Any]:
        """As DescribeTasks gives it."""
        code = "ServiceSchedulerInitiated" if self.stop_code == "Unhealthy" else self.stop_code
        stopping = {"stoppedReason": self.stopped_reason, "stopCode": code}
        return {
            "taskArn": self.task_arn,
            "taskDefinitionArn": self.revision.task_definition,
            "clusterArn": self.revision.cluster_arn,
            "group": self.group,
            "startedBy": self.started_by,
            "launchType": self.launch_type,
            "lastStatus": self.last_status,
            "desiredStatus": self.desired_status,
            "healthStatus": self.health,
            "containers": [self._describe(one) for one in self.containers],
            **self.times,
            **({} if self.wanted else stopping),
        }

    def _describe(self, one: RunningContainer) -> dict[str, Any]:
        known = {"imageDigest": one.digest, "reason": one.reason, "runtimeId": one.id}
        return {
            "containerArn": f"{self.task_arn.replace(':task/', ':container/')}/"
            f"{uuid.uuid5(uuid.NAMESPACE_OID, self.id + one.definition['name'])}",
            "taskArn": self.task_arn,
            "name": one.definition["name"],
            "image": one.definition["image"],
            "lastStatus": one.status,
            "healthStatus": one.health,
            **{key: value for key, value in known.items() if value},
            **({} if one.exit_code is None else {"exitCode": one.exit_code}),
        }
