"""A deploy to a service of Amazon ECS: one deployment, followed to its end, and verified.

The SDK's own waiter (`services_stable`) is true after a rollback, too, so it is not used.
Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-deployment.html
"""

import time
from dataclasses import dataclass, field

from blocks.aws.ecs_service import Description, EcsService
from blocks.aws.failure import deploy_failed
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
_GOING_UP = ("PENDING", "IN_PROGRESS")
_SUCCESSFUL = "SUCCESSFUL"
_APPEARS_SECONDS = 60.0
ROLLBACK_SECONDS = 300.0


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
        self._check_service()
        self._tell_events(silently=True)
        self._wait_for_another()
        arn = self._deployment_there() or self._deployment_made()
        if arn:
            self._follow_to_success(arn)
        return verified(self.service, self.image, self.least_tasks)

    def _check_service(self) -> None:
        """Raise StackUnusable where it cannot be deployed to, before anything is changed."""
        service = self.service.describe()
        self.service.container(self.service.definition(service["taskDefinition"]))
        controller = service.get("deploymentController", {}).get("type", "ECS")
        if controller != "ECS":
            raise StackUnusable(
                f"The deployments of {self.service} are made by {controller}, not by ECS.",
                hint="Rolling, blue/green and canary deployments of ECS itself are supported: "
                "create the service with the deployment controller ECS.",
            )

    # -- the one deployment -------------------------------------------------------------------

    def _wait_for_another(self) -> None:
        """Let a deployment of another image come to its end: there are never two."""
        while other := self._another_under_way():
            arn = other["serviceDeploymentArn"]
            self.log(f"Another deployment is under way ({other['status']}); waiting for it: {arn}")
            if self._follow(arn, self._left())["status"] in _UNDER_WAY:
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
        return deployment["status"] in _GOING_UP and self._brings_image(deployment)

    def _brings_image(self, deployment: Description) -> bool:
        revision = deployment["taskDefinition"]
        return bool(revision) and self.service.has_image(revision, self.image)

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
        service = self.service.describe()
        listed = self.service.deployments()
        before = {d["serviceDeploymentArn"] for d in listed}
        current = service["taskDefinition"]
        tasks = None if service["desiredCount"] >= self.least_tasks else self.least_tasks
        if tasks:
            self.log(f"{self.service} wants {service['desiredCount']} tasks: made {tasks}")
        if self.service.image_of(current).digest != self.image.digest:
            revision = self.service.register(current, self.image)
            self.log(f"Registered {revision} with {self.image.reference}")
            self.service.update(revision, tasks)
            return self._appeared(before)
        last = next((d for d in listed if d["taskDefinition"] == current), None)
        if last is None and _is_rolling_out(service):
            return self._appeared(set())  # an earlier try has begun it just now
        if last is not None and last["status"] != _SUCCESSFUL:
            self.log("The last deployment of this image did not end well: deploying it again")
            self.service.update(current, tasks, force=True)
            return self._appeared(before)
        self.log(f"{self.service} runs {self.image.digest} already")
        if tasks:
            self.service.update(current, tasks)
        return None

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

    # -- its end ------------------------------------------------------------------------------

    def _follow_to_success(self, arn: str) -> None:
        ended, why = self._follow(arn, self._left()), ""
        if ended["status"] in _GOING_UP:
            why = f"It was not done after {self.timeout_seconds:g} s, and was stopped."
            self.log(f"Not done after {self.timeout_seconds:g} s: stopping it, with a rollback")
            try:
                self.service.roll_back(arn)
                ended = self._follow(arn, ROLLBACK_SECONDS)
            except AwsRefused as error:  # it may have ended in this moment
                ended = self.service.deployment(arn)
                why = f"{why[:-1]}, but could not be rolled back: {error}"
        if ended["status"] != _SUCCESSFUL:
            raise deploy_failed(self.service, self.image, ended, why)

    def _follow(self, arn: str, seconds: float) -> Description:
        """A deployment, once it has ended or after so long; its news goes to the log.

        A rollback has a time limit of its own: the deploy has failed by then, whatever comes of it.
        """
        deadline, said, rolling = time.monotonic() + seconds, "", False
        while True:
            now = self.service.deployment(arn)
            status = now["status"]
            self._tell_events()
            stands = " ".join(filter(None, (status, now.get("lifecycleStage"))))
            if stands != said:
                said = stands
                self.log(f"Deployment {arn.rpartition('/')[2]}: {stands}")
            if not rolling and status == "ROLLBACK_IN_PROGRESS":
                rolling, deadline = True, time.monotonic() + ROLLBACK_SECONDS
            if status not in _UNDER_WAY or time.monotonic() > deadline:
                return now
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


def _is_rolling_out(service: Description) -> bool:
    """Whether ECS says that the service's own revision is on its way, listed or not."""
    states = [d.get("rolloutState") for d in service["deployments"] if d["status"] == "PRIMARY"]
    return "IN_PROGRESS" in states
