"""How ECS carries out the deployments of one service.

Sources: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-type-ecs.html
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-type-blue-green.html
"""

import copy
import time
import uuid
from collections.abc import Mapping
from typing import Any

from moto.core.utils import pascal_to_camelcase, remap_nested_keys
from moto.ecs.models import Service

from tests.aws.rollouts import Rollout, ServiceDeployment, Settings, now
from tests.aws.service_tasks import ServiceTasks, Workshop
from tests.aws.tasks import Revision, Task

_MANY_FAILURES = 3


class ManagedService(ServiceTasks):
    """A service whose tasks really run. Every method is called with the agent's lock held."""

    def __init__(
        self, workshop: Workshop, service: Service, settings: Mapping[str, Any] | None
    ) -> None:
        super().__init__(workshop, service)
        self.settings = Settings(settings or {})
        self.deployments: list[ServiceDeployment] = []
        """Newest first"""
        self.revisions: list[Revision] = []
        self._created_at = now()
        self._rollouts: list[Rollout] = []
        """The primary one first"""
        self._last_good: Revision | None = None
        self._serving: Rollout | None = None
        """What has the traffic, where it is not the whole service"""
        self.deploy(service.task_definition)

    # What the API asks for

    def deploy(self, task_definition: str) -> None:
        """Start a new deployment; one that is in progress ends."""
        service = self.service
        if self._current and not self._current.final:
            self._current.enter("STOPPED", "A newer service deployment replaced this one.")
        for rollout in self._rollouts:
            rollout.status = "ACTIVE"
        sources = [rollout for rollout in self._rollouts if rollout.wanted()]
        revision = self._revision(task_definition)
        service.task_definition = revision.task_definition
        rollout = Rollout(revision, service.desired_count, service.launch_type)
        self._rollouts.insert(0, rollout)
        self.deployments.insert(0, ServiceDeployment(rollout, sources, self.settings))

    def _revision(self, task_definition: str) -> Revision:
        found = self.service._backend.describe_task_definition(task_definition)
        arn = self.service.arn.replace(":service/", ":service-revision/")
        revision = Revision(
            arn=f"{arn}/{uuid.uuid4().int % 10**19:019}",
            service_arn=self.service.arn,
            cluster_arn=self.service.cluster_arn,
            family=found.family,
            task_definition=found.arn,
            # moto leaves CloudFormation's spelling where a stack is updated.
            containers=remap_nested_keys(
                copy.deepcopy(found.container_definitions), pascal_to_camelcase
            ),
            created_at=now(),
        )
        self.revisions.append(revision)
        return revision

    def update(
        self,
        task_definition: str | None = None,
        desired_count: int | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
    ) -> None:
        """What UpdateService does; the same task definition, not forced, makes no deployment."""
        if settings is not None:
            self.settings = Settings(settings)
        if desired_count is not None:
            self.service.desired_count = self._rollouts[0].desired = desired_count
        wanted = self.service.task_definition
        if task_definition:
            wanted = self.service._backend.describe_task_definition(task_definition).arn
        if force or wanted != self.service.task_definition:
            self.deploy(wanted)

    def stop_deployment(self, deployment: ServiceDeployment) -> None:
        """What StopServiceDeployment does with one that is not final."""
        if not deployment.rolling_back:
            deployment.enter(
                "ROLLBACK_REQUESTED", "Service deployment rolled back because of a user request."
            )

    def delete(self) -> None:
        """End all tasks; no deployment goes on."""
        self.service.desired_count = 0
        for task in self.tasks:
            if task.wanted:
                self.stop_task(task, "Service was deleted.")
        self._rollouts = []

    def snapshot(self) -> Service:
        """The service as DescribeServices gives it, which nothing changes any more."""
        found = copy.copy(self.service)
        found.deployments = [rollout.describe() for rollout in self._rollouts]
        found.events = list(self._events)
        found.running_count = sum(rollout.running for rollout in self._rollouts)
        found.pending_count = sum(rollout.pending for rollout in self._rollouts)
        found.deployment_configuration = {
            "maximumPercent": 200,
            "minimumHealthyPercent": 100,
            **self.settings.given,
        }
        found.created_at = self._created_at
        if self._current and not self._current.final:
            found.current_service_deployment = self._current.arn
        return found

    # What goes on by itself

    @property
    def _current(self) -> ServiceDeployment | None:
        return self.deployments[0] if self.deployments else None

    @property
    def _held(self) -> bool:
        return self.service.name in self._shop.held

    def reconcile(self) -> None:
        """Bring what runs nearer to what is wanted."""
        if not self._rollouts:
            return
        for rollout in self._rollouts:
            for task in rollout.tasks:
                task.look()
            self._account(rollout)
        deployment = self._current
        if deployment and not deployment.final:
            self._progress(deployment)
        primary = self._rollouts[0]
        if primary.state != "FAILED":
            self._scale(primary)
            self._turn(deployment)  # before others lose their requests, below
            self._finish(primary, deployment)
        self._turn(deployment)
        self._rollouts[1:] = [
            rollout
            for rollout in self._rollouts[1:]
            if any(task.last_status != "STOPPED" for task in rollout.tasks)
        ]

    def _account(self, rollout: Rollout) -> None:
        """Count the tasks that failed, and those that run well."""
        deployment = self._current
        counting = deployment and deployment.rollout is rollout and not deployment.final
        for task in rollout.tasks:
            if not task.was_good and task.good(self._shop.settle_seconds):
                task.was_good = True
                rollout.failed = 0
                if deployment and counting and deployment.settings.resets:
                    deployment.failures = 0
            if task.failed and not task.accounted:
                task.accounted = True
                rollout.count_failure()
                if deployment and counting:
                    deployment.failures += 1
                self._tell_of_failure(rollout, task)
                self.stop_task(task, task.stopped_reason, task.stop_code)

    def _tell_of_failure(self, rollout: Rollout, task: Task) -> None:
        if task.stop_code == "TaskFailedToStart":
            self._tell(f"was unable to place a task. Reason: {task.stopped_reason}.")
        elif task.stop_code == "Unhealthy":
            self._tell(f"(task {task.id}) failed container health checks.")
        if rollout.failed == _MANY_FAILURES and not self.settings.breaker:
            self._tell(
                "is unable to consistently start tasks successfully. For more information, see the "
                "Troubleshooting section of the Amazon ECS Developer Guide."
            )

    def _progress(self, deployment: ServiceDeployment) -> None:
        if deployment.status == "PENDING":
            deployment.enter("IN_PROGRESS")
        elif deployment.status == "ROLLBACK_REQUESTED":
            self._fail(deployment, deployment.status_reason)
        elif (
            deployment.status == "IN_PROGRESS"
            and deployment.settings.breaker
            and deployment.failures >= deployment.threshold
        ):
            self._trip(deployment)

    def _trip(self, deployment: ServiceDeployment) -> None:
        deployment.tripped = True
        failed = deployment.rollout.id
        self._tell(f"(deployment {failed}) deployment failed: tasks failed to start.")
        if deployment.settings.rolls_back:
            self._fail(
                deployment,
                "Service deployment rolled back as the circuit breaker threshold was exceeded.",
            )
            return
        self._end_rollout(
            deployment.rollout, "ECS deployment circuit breaker: tasks failed to start."
        )
        deployment.enter(
            "STOPPED",
            "Service deployment stopped because the circuit breaker threshold was exceeded.",
        )

    def _fail(self, deployment: ServiceDeployment, reason: str) -> None:
        """Roll a deployment back to the last revision that ran well."""
        failed = deployment.rollout
        breaker = "ECS deployment circuit breaker: " if deployment.tripped else ""
        if self._last_good is None:
            self._end_rollout(failed, f"{breaker}tasks failed to start.")
            deployment.enter("ROLLBACK_FAILED", f"{reason} There is no revision to roll back to.")
            return
        back = next((one for one in self._rollouts[1:] if one.revision is self._last_good), None)
        if back is None:
            back = Rollout(self._last_good, self.service.desired_count, self.service.launch_type)
        self._end_rollout(failed, f"{breaker}rolling back to deploymentId {back.id}.")
        failed.status, back.status = "ACTIVE", "PRIMARY"
        back.desired = self.service.desired_count
        back.enter("IN_PROGRESS", f"ECS deployment {back.id} in progress.")
        self._rollouts = [back, *(one for one in self._rollouts if one is not back)]
        self.service.task_definition = back.revision.task_definition
        deployment.rollback = {
            "reason": reason,
            "startedAt": now(),
            "serviceRevisionArn": back.revision.arn,
        }
        deployment.enter("ROLLBACK_IN_PROGRESS", reason)
        self._tell(f"rolling back to deployment {back.id}.")

    def _end_rollout(self, rollout: Rollout, reason: str) -> None:
        rollout.enter("FAILED", reason)
        self._drop(rollout, len(rollout.tasks))

    def _scale(self, primary: Rollout) -> None:
        """Start what is missing, end what is too much."""
        wanted = primary.wanted()
        too_many = len(wanted) - primary.desired
        if too_many > 0:
            self._drop(primary, too_many)
        alive = sum(len(rollout.wanted()) for rollout in self._rollouts)
        room = self.settings.most(primary.desired) - alive
        count = min(primary.desired - len(wanted), room if self.settings.rolling else alive + 1)
        if self._held and primary.state != "COMPLETED":
            return
        if count > 0 and time.monotonic() >= primary.not_before:
            self._start(primary, count)

    def _finish(self, primary: Rollout, deployment: ServiceDeployment | None) -> None:
        """Replace the old tasks; once that is done, the deployment has ended well."""
        settle = self._shop.settle_seconds
        back = bool(deployment and deployment.rolling_back)
        if primary.state == "COMPLETED" or (self._held and not back):
            return
        good = len(primary.good(settle))
        old = self._rollouts[1:]
        if self.settings.rolling or back:
            self._replace(old, primary)
        elif deployment and not self._shifted(deployment, good):
            return
        if good < primary.desired or any(one.wanted() for one in old):
            return
        if any(task.last_status != "STOPPED" for one in old for task in one.tasks):
            return
        self._complete(primary, deployment)

    def _replace(self, old: list[Rollout], primary: Rollout) -> None:
        """End old tasks, as many as can be spared; those that do not run well always."""
        settle = self._shop.settle_seconds
        spare = sum(len(one.good(settle)) for one in self._rollouts)
        spare -= self.settings.least_good(primary.desired)
        for one in old:
            good = len(one.good(settle))
            ended = min(good, max(0, spare))
            self._drop(one, len(one.wanted()) - good + ended)
            spare -= ended

    def _complete(self, primary: Rollout, deployment: ServiceDeployment | None) -> None:
        primary.enter("COMPLETED", f"ECS deployment {primary.id} completed.")
        self._last_good, self._serving = primary.revision, primary
        if deployment and not deployment.final:
            deployment.enter("ROLLBACK_SUCCESSFUL" if deployment.rolling_back else "SUCCESSFUL")
        self._tell(f"(deployment {primary.id}) deployment completed.")
        self._tell("has reached a steady state.")

    def _shifted(self, deployment: ServiceDeployment, good: int) -> bool:
        """Turn the traffic step by step; whether all of it is turned, and the bake time over."""
        primary, shifts = deployment.rollout, deployment.settings.shifts()
        for one in self._rollouts[1:]:
            if one is not self._serving:
                self._drop(one, len(one.tasks))
        if deployment.shift == 0:
            deployment.stage = "SCALE_UP"
            if good < primary.desired:
                return False
        if time.monotonic() < deployment.baked_at:
            return False
        if deployment.shift < len(shifts):
            minutes = shifts[deployment.shift][1]
            deployment.shift += 1
            last = deployment.shift == len(shifts)
            deployment.stage = "BAKE_TIME" if last else "PRODUCTION_TRAFFIC_SHIFT"
            deployment.baked_at = time.monotonic() + minutes * self._shop.minute_seconds
            return False
        deployment.stage = "CLEAN_UP"
        self._serving = primary
        for one in self._rollouts[1:]:
            self._drop(one, len(one.tasks))
        return True

    def _turn(self, deployment: ServiceDeployment | None) -> None:
        """Tell the load balancer which tasks get the requests."""
        settle, serving = self._shop.settle_seconds, self._serving
        everything = [self._target(task) for one in self._rollouts for task in one.good(settle)]
        primary = self._rollouts[0]
        if self.settings.rolling or serving is None or serving is primary:
            self.targeting.turn([], everything, 100)
            return
        new = [self._target(task) for task in primary.good(settle)]
        old = [self._target(task) for task in serving.good(settle)]
        shift = deployment.shift if deployment and not deployment.final else 0
        percent = deployment.settings.shifts()[shift - 1][0] if deployment and shift else 0
        self.targeting.turn(old, new, percent)
