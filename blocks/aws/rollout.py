"""A deploy to a service of Amazon ECS: one deployment, followed to its end, and verified.

The SDK's own waiter (`services_stable`) is true after a rollback, too, so it is not used.
Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-deployment.html
"""

import time

from blocks.aws.ecs_service import Description, EcsService, is_daemon, rollout_state
from blocks.aws.failure import deploy_failed
from blocks.aws.following import (
    APPEARS_SECONDS,
    GOING_UP,
    POLL_SECONDS,
    ROLLBACK_SECONDS,
    UNDER_WAY,
    Follower,
    awaited,
)
from blocks.aws.verification import serves_now, verified, what_is_wrong
from blocks.contracts import Log, Turn
from domain.errors import AwsRefused, DeployFailed, Overtaken, SamebitsError, StackUnusable
from domain.image import PublishedImage, Serving

_SUCCESSFUL = "SUCCESSFUL"


class Rollout:
    """A deploy of an image to a service."""

    def __init__(
        self,
        service: EcsService,
        image: PublishedImage,
        turn: Turn,
        log: Log,
        least_tasks: int,
        timeout_seconds: float,
    ) -> None:
        self._service, self._image, self._turn, self._log = service, image, turn, log
        self._least_tasks, self._timeout = least_tasks, timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._tasks_before: int | None = None
        """How many tasks were wanted before the deploy, where it made that more"""

    def run(self) -> Serving:
        """Have the service run the image; returns what was seen to serve. Raises DeployFailed."""
        self._check_service()
        self._follower = Follower(self._service, self._log, self._wants_as_before)
        listed = self._once_idle()
        revision, arn = self._under_way(listed) or self._begun(listed)
        if arn:
            self._follow_to_success(arn)
        return verified(self._service, self._image, revision, self._least_tasks, self._timeout)

    def _check_service(self) -> None:
        """Raise StackUnusable where it cannot be deployed to, before anything is changed."""
        service = self._service.describe()
        self._service.container(self._service.definition(service["taskDefinition"]))
        controller = service.get("deploymentController", {}).get("type", "ECS")
        if controller != "ECS":
            raise StackUnusable(
                f"The deployments of {self._service} are made by {controller}, not by ECS.",
                hint="Rolling, blue/green and canary deployments of ECS itself are supported: "
                "create the service with the deployment controller ECS.",
            )

    # -- the one deployment -------------------------------------------------------------------

    def _once_idle(self) -> list[Description]:
        """The deployments, once none of another image is under way: there are never two."""
        while other := self._other(listed := self._service.deployments()):
            arn = other["serviceDeploymentArn"]
            self._log(f"Another deployment is under way ({other['status']}); waiting for it: {arn}")
            if self._follower.follow(arn, self._left())["status"] in UNDER_WAY:
                raise DeployFailed(
                    f"{self._service} is still busy with another deployment.",
                    why=f"{arn} did not end within {self._timeout:g} s.",
                    hint="Nothing was changed. Stop it in the ECS console, then retry the run.",
                )
            time.sleep(POLL_SECONDS)  # the list may be a moment older
        return listed

    def _other(self, listed: list[Description]) -> Description | None:
        for found in listed:
            if found["status"] in UNDER_WAY and not self._is_mine(found):
                return found
        return None

    def _is_mine(self, deployment: Description) -> bool:
        """Whether a deployment brings this image, and is not on its way back already."""
        revision = deployment["taskDefinition"]
        return (
            deployment["status"] in GOING_UP
            and bool(revision)
            and self._service.has_image(revision, self._image)
        )

    def _under_way(self, listed: list[Description]) -> tuple[str, str] | None:
        """The deployment that an earlier try of this run, or another run, has begun already."""
        for found in filter(self._is_mine, listed):
            arn = str(found["serviceDeploymentArn"])
            self._log(f"A deployment of this very image is under way: following it: {arn}")
            self._tasks_before = self._service.tasks_before(found["taskDefinition"])
            return found["taskDefinition"], arn
        return None

    def _begun(self, listed: list[Description]) -> tuple[str, str | None]:
        """Ask ECS for a deployment of the image: its revision, and its ARN.

        Without an ARN the service runs the image already.
        """
        service = self._service.describe()
        current, tasks = service["taskDefinition"], self._tasks_to_want(service)
        if self._service.image_of(current).digest == self._image.digest:
            last = next((d for d in listed if d["taskDefinition"] == current), None)
            if last is None and rollout_state(service) == "IN_PROGRESS":
                self._tasks_before = self._service.tasks_before(current)
                return current, self._appeared(current, listed)  # begun by an earlier try just now
            if last is not None and last["status"] != _SUCCESSFUL:
                self._log("The last deployment of this image did not end well: deploying it again")
            elif self._runs_already(current, tasks):
                return current, None
        self._turn.admit(self._service.image_of(current))
        # Also for the same image a revision of its own: the update is then one deployment, however
        # often it is asked for, and a revision that somebody has deregistered is in nobody's way.
        revision = self._service.register(current, self._image, self._tasks_before)
        self._log(f"Registered {revision} with {self._image.reference}")
        self._check_still_runs(current)
        self._service.update(revision, tasks)
        return revision, self._appeared(revision, listed)

    def _check_still_runs(self, admitted: str) -> None:
        """Raise Overtaken where the service runs another revision than the one that gave way.

        ECS takes no condition with an update, so this is asked in the last moment before it.
        """
        now = self._service.describe()["taskDefinition"]
        if now != admitted:
            raise Overtaken(
                f"A later deploy has begun on {self._service}: this one may change it no more.",
                why=f"It runs {now}; {admitted} was to give way.",
                hint="Nothing was changed. Retry the run if it is wanted.",
            )

    def _tasks_to_want(self, service: Description) -> int | None:
        """How many tasks to ask for; None where the service wants enough, or ECS decides that."""
        if is_daemon(service) or service["desiredCount"] >= self._least_tasks:
            return None
        self._tasks_before = service["desiredCount"]
        self._log(f"{self._service} wants {self._tasks_before} tasks: made {self._least_tasks}")
        return self._least_tasks

    def _runs_already(self, current: str, tasks: int | None) -> bool:
        self._log(f"{self._service} is set to {self._image.digest} already")
        if tasks:
            self._service.scale(tasks)
        wrong = what_is_wrong(self._service, self._image, current, self._least_tasks, self._timeout)
        if wrong:
            self._log(f"It does not run well, so it is deployed again: {wrong}")
        return not wrong

    def _appeared(self, revision: str, before: list[Description]) -> str:
        """The deployment that the update has begun; ECS lists it a moment later."""
        known = {found["serviceDeploymentArn"] for found in before}
        deadline = time.monotonic() + APPEARS_SECONDS
        while time.monotonic() < deadline:
            for found in self._service.deployments():
                arn = found["serviceDeploymentArn"]
                if arn not in known and found["taskDefinition"] == revision:
                    return str(arn)
            time.sleep(POLL_SECONDS)
        raise DeployFailed(
            f"{self._service} was updated, but ECS lists no deployment of {revision}.",
            why="Somebody else may have updated the service in the same moment.",
            hint=f"{serves_now(self._service)} Retry the run.",
        )

    # -- its end ------------------------------------------------------------------------------

    def _follow_to_success(self, arn: str) -> None:
        ended, why = self._follower.follow(arn, self._timeout), ""
        if ended["status"] in GOING_UP:
            late = f"It was not done after {self._timeout:g} s"
            if hooks := awaited(ended):
                late += f", in which nobody continued it at its hook {', '.join(hooks)}"
            self._log(f"{late}: stopping it, with a rollback")
            try:
                self._service.roll_back(arn)
                why, patience = f"{late}, and was stopped.", ROLLBACK_SECONDS
            except AwsRefused as error:  # it may have ended in this moment
                why, patience = f"{late}, but could not be rolled back: {error}", 0.0
            ended = self._follower.follow(arn, patience)
        if ended["status"] != _SUCCESSFUL:
            failed = deploy_failed(self._service, self._image, ended, why)
            self._wants_as_before()
            raise failed

    def _wants_as_before(self) -> None:
        """Ask for as few tasks as before: what ran on none need not run, not even after a rollback.

        The placeholder of a new service would never run well, and its rollback never end.
        """
        if self._tasks_before is None:
            return
        before, self._tasks_before = self._tasks_before, None
        try:
            if self._service.describe()["desiredCount"] != self._least_tasks:
                return  # somebody, or autoscaling, has changed it since
            self._service.scale(before)
            self._log(f"{self._service} wants {before} tasks again, as before the deploy")
        except SamebitsError as error:  # it hides no failed deploy
            self._log(f"{self._service} still wants {self._least_tasks} tasks: {error}")

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)
