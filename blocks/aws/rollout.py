"""A deploy to a service of Amazon ECS: one deployment, followed to its end, and verified.

The SDK's own waiter (`services_stable`) is true after a rollback, too, so it is not used.
Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-deployment.html
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blocks.aws.ecs_service import Description, EcsService
from blocks.aws.verification import serves_now, verified
from blocks.contracts import Log
from domain.errors import AwsRefused, DeployFailed, StackUnusable
from domain.image import PublishedImage, Serving
from domain.names import one_line

POLL_SECONDS = 2.0
_UNDER_WAY = (
    "PENDING",
    "IN_PROGRESS",
    "STOP_REQUESTED",
    "ROLLBACK_REQUESTED",
    "ROLLBACK_IN_PROGRESS",
)
_SUCCESSFUL = "SUCCESSFUL"
_APPEARS_SECONDS = 60.0
_ROLLBACK_SECONDS = 900.0
_MOST_EVENTS = 6


@dataclass
class Rollout:
    """A deploy of an image to a service."""

    service: EcsService
    image: PublishedImage
    log: Log
    least_tasks: int
    timeout_seconds: float
    _started: float = field(default_factory=time.monotonic)
    _told: set[str] = field(default_factory=set)

    def run(self) -> Serving:
        """Have the service run the image; returns what was seen to serve. Raises DeployFailed."""
        self._tell_events(silently=True)
        self._wait_for_another()
        arn = self._deployment_there() or self._deployment_made()
        if arn:
            self._follow_to_success(arn)
        return verified(self.service, self.image, self.least_tasks)

    # -- the one deployment -------------------------------------------------------------------

    def _wait_for_another(self) -> None:
        """Let a deployment of another image come to its end: there are never two."""
        while other := self._another_under_way():
            arn = other["serviceDeploymentArn"]
            self.log(f"Another deployment is under way ({other['status']}); waiting for it: {arn}")
            self._follow(arn, self._left())
            if self.service.deployment(arn)["status"] in _UNDER_WAY:
                raise DeployFailed(
                    f"{self.service} is still busy with another deployment.",
                    why=f"{arn} did not end within {self.timeout_seconds:g} s.",
                    hint="Nothing was changed. Stop it in the ECS console, then retry the run.",
                )

    def _another_under_way(self) -> Description | None:
        for found in self.service.deployments():
            if found["status"] in _UNDER_WAY and not self._is_mine(found):
                return found
        return None

    def _is_mine(self, deployment: Description) -> bool:
        """Whether a deployment brings this image, and is not on its way back already."""
        revision = deployment["taskDefinition"]
        if revision is None or deployment["status"] not in ("PENDING", "IN_PROGRESS"):
            return False
        return self.service.image_of(revision).digest == self.image.digest

    def _deployment_there(self) -> str | None:
        """The deployment that an earlier try of this run, or another run, has begun already."""
        for found in self.service.deployments():
            if found["status"] in _UNDER_WAY:
                arn = str(found["serviceDeploymentArn"])
                self.log(f"A deployment of this very image is under way: following it: {arn}")
                return arn
        return None

    def _deployment_made(self) -> str | None:
        """Ask ECS for a deployment of the image; None where the service runs it already."""
        service = self._usable()
        current = service["taskDefinition"]
        tasks = None if service["desiredCount"] >= self.least_tasks else self.least_tasks
        if tasks:
            self.log(f"{self.service} wants {service['desiredCount']} tasks: made {tasks}")
        before = {d["serviceDeploymentArn"] for d in self.service.deployments()}
        if self.service.image_of(current).digest != self.image.digest:
            revision = self.service.register(current, self.image)
            self.log(f"Registered {revision} with {self.image.reference}")
            self.service.update(revision, tasks)
        elif not self._went_well(current):
            self.log("The last deployment of this image did not end well: deploying it again")
            self.service.update(current, tasks, force=True)
        else:
            self.log(f"{self.service} runs {self.image.digest} already")
            if tasks:
                self.service.update(current, tasks)
            return None
        return self._appeared(before)

    def _usable(self) -> Description:
        service = self.service.describe()
        controller = service.get("deploymentController", {}).get("type", "ECS")
        if controller != "ECS":
            raise StackUnusable(
                f"The deployments of {self.service} are made by {controller}, not by ECS.",
                hint="Rolling, blue/green and canary deployments of ECS itself are supported: "
                "create the service with the deployment controller ECS.",
            )
        return service

    def _went_well(self, revision: str) -> bool:
        """Whether the last deployment of the revision that the service has was a success."""
        for found in self.service.deployments():
            if found["taskDefinition"] == revision:
                return bool(found["status"] == _SUCCESSFUL)
        return True  # older than ECS remembers

    def _appeared(self, before: set[str]) -> str:
        """The deployment that the update has begun; ECS lists it a moment later."""
        deadline = time.monotonic() + _APPEARS_SECONDS
        while time.monotonic() < deadline:
            for found in self.service.deployments():
                if found["serviceDeploymentArn"] not in before and self._brings_image(found):
                    return str(found["serviceDeploymentArn"])
            time.sleep(POLL_SECONDS)
        raise DeployFailed(
            f"{self.service} was updated, but ECS lists no deployment of {self.image.digest}.",
            why="Somebody else may have updated the service in the same moment.",
            hint=f"{serves_now(self.service)} Retry the run.",
        )

    def _brings_image(self, deployment: Description) -> bool:
        revision = deployment["taskDefinition"]
        return bool(revision) and self.service.image_of(revision).digest == self.image.digest

    # -- its end ------------------------------------------------------------------------------

    def _follow_to_success(self, arn: str) -> None:
        self._follow(arn, self._left())
        ended = self.service.deployment(arn)
        if ended["status"] == _SUCCESSFUL:
            return
        if ended["status"] not in _UNDER_WAY:
            raise self._failed(ended, "")
        self.log(f"Not done after {self.timeout_seconds:g} s: stopping it, with a rollback")
        why = f"It was not done after {self.timeout_seconds:g} s, and was stopped."
        try:
            self.service.roll_back(arn)
        except AwsRefused as error:
            raise self._failed(ended, f"{why} It could not be rolled back: {error}") from error
        self._follow(arn, _ROLLBACK_SECONDS)
        raise self._failed(self.service.deployment(arn), why)

    def _follow(self, arn: str, seconds: float) -> None:
        """Return when a deployment has ended, or after so long; its news goes to the log."""
        deadline, said = time.monotonic() + seconds, ""
        while True:
            now = self.service.deployment(arn)
            self._tell_events()
            stands = " ".join(filter(None, (now["status"], now.get("lifecycleStage"))))
            if stands != said:
                said = stands
                self.log(f"Deployment {arn.rpartition('/')[2]}: {stands}")
            if now["status"] not in _UNDER_WAY or time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)

    def _tell_events(self, *, silently: bool = False) -> None:
        """Log the service's events that are new, the oldest first."""
        for event in reversed(self.service.describe().get("events", [])):
            if event["id"] not in self._told:
                self._told.add(event["id"])
                if not silently:
                    self.log(one_line(event["message"], 400))

    def _left(self) -> float:
        return max(self._started + self.timeout_seconds - time.monotonic(), 0.0)

    # -- why it failed ------------------------------------------------------------------------

    def _failed(self, deployment: Description, why: str) -> DeployFailed:
        """The failed deploy: what ECS and the stopped tasks say of the cause, and what serves."""
        stopped = self._stopped_tasks()
        causes = [why, *map(self._why_stopped, stopped), *_said_by_ecs(deployment)]
        events = [one_line(e["message"], 300) for e in self._last_events()]
        lines = self.service.last_lines(stopped[0]) if stopped else []
        log_hint = "The last events, and the last lines of its log:" if lines else ""
        return DeployFailed(
            f"{self.service} did not take {self.image.digest}: "
            f"the deployment ended as {deployment['status']}.",
            why=" ".join(list(dict.fromkeys(filter(None, causes)))[:4]),
            hint=" ".join(filter(None, (serves_now(self.service), log_hint))),
            log=[*events, *lines],
        )

    def _stopped_tasks(self) -> list[Description]:
        """The tasks of this image that have stopped, the newest first."""
        stopped = self.service.tasks("STOPPED")
        return [t for t in stopped if any(self._has_image(c) for c in t["containers"])]

    def _has_image(self, container: Mapping[str, Any]) -> bool:
        return self.image.digest in str(container.get("image", ""))

    def _why_stopped(self, task: Description) -> str:
        """Why a task stopped: ECS's reason, and the exit codes of its containers."""
        container = next(c for c in task["containers"] if self._has_image(c))
        code = container.get("exitCode")
        parts = [
            str(task.get("stoppedReason", "A task stopped.")).rstrip("."),
            str(container.get("reason", "")),
            f"exit code {code}" if code is not None else "",
        ]
        return one_line("; ".join(dict.fromkeys(filter(None, parts))), 400) + "."

    def _last_events(self) -> list[Mapping[str, Any]]:
        return list(reversed(self.service.describe().get("events", [])[:_MOST_EVENTS]))


def _said_by_ecs(deployment: Description) -> list[str]:
    rollback = deployment.get("rollback") or {}
    said = (deployment.get("statusReason"), rollback.get("reason"))
    return [one_line(str(text), 300) for text in said if text]
