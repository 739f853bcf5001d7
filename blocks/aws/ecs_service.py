"""One service of Amazon ECS: what it runs, and what is asked of it.

Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Operations.html
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from blocks.aws.connection import Aws
from blocks.aws.faults import aws_faults, code_of
from blocks.aws.logs import last_lines
from blocks.aws.revision import (
    container_to_replace,
    definition_of,
    next_revision,
    serving_of,
    tasks_before_of,
)
from domain.errors import StackUnusable
from domain.image import PublishedImage, Serving

Description = Mapping[str, Any]
"""A service, service deployment or task, as ECS describes it"""
_MOST_DESCRIBED = 100
_MOST_REVISIONS = 20


class EcsService:
    """A service, by its cluster and name."""

    def __init__(self, aws: Aws, cluster: str, name: str, container: str) -> None:
        self._aws, self._ecs = aws, aws.ecs()
        self.cluster, self.name, self._container = cluster, name, container
        self._definitions: dict[str, dict[str, Any]] = {}

    def __str__(self) -> str:
        return f"{self.cluster}/{self.name}"

    def describe(self) -> Description:
        """The service as it is now; raises StackUnusable where it is not there."""
        with self._calls():
            answer = self._ecs.describe_services(cluster=self.cluster, services=[self.name])
        for service in answer["services"]:
            if service["status"] == "ACTIVE":
                return service
        raise StackUnusable(
            f"The cluster {self.cluster} has no active service {self.name!r}.",
            hint="Correct cluster or service in the stack's block, or create the service.",
        )

    def definition(self, revision: str) -> dict[str, Any]:
        """A task definition, with its tags; a revision never changes, so it is asked for once."""
        if revision not in self._definitions:
            with self._calls():
                answer = self._ecs.describe_task_definition(
                    taskDefinition=revision, include=["TAGS"]
                )
            tags = {"tags": answer["tags"]} if answer.get("tags") else {}
            self._definitions[revision] = {**answer["taskDefinition"], **tags}
        return self._definitions[revision]

    def container(self, definition: Description) -> str:
        """The container that runs the image; raises StackUnusable where that is unclear."""
        return container_to_replace(definition, self._container)

    def image_of(self, revision: str) -> Serving:
        """What a revision runs."""
        definition = self.definition(revision)
        return serving_of(definition, self.container(definition))

    def has_image(self, revision: str, image: PublishedImage) -> bool:
        """Whether any container of a revision runs this image."""
        containers = self.definition(revision)["containerDefinitions"]
        return any(container["image"] == image.reference for container in containers)

    def runs(self, task: Description) -> Serving:
        """What a task runs by its own word, empty for none, and the commit of its revision."""
        definition = self.definition(task["taskDefinitionArn"])
        name = self.container(definition)
        digests = (c.get("imageDigest", "") for c in task["containers"] if c["name"] == name)
        return Serving(digest=next(digests, ""), sha=serving_of(definition, name).sha)

    def served(self) -> list[Serving]:
        """What its running tasks run, each once; what has run the longest comes first."""
        return list(dict.fromkeys(self.runs(task) for task in reversed(self.running())))

    def serving(self) -> Serving | None:
        """What has run the longest; None where no task runs."""
        return next(iter(self.served()), None)

    def last_lines(self, task: Description) -> list[str]:
        """The last lines that the container with the image has written in a task."""
        definition = self.definition(task["taskDefinitionArn"])
        container = definition_of(definition, self.container(definition))
        return last_lines(self._aws, container, task["taskArn"])

    def tasks_before(self, revision: str) -> int | None:
        """How many tasks the service wanted before the deploy of a revision, if that raised it."""
        definition = self.definition(revision)
        return tasks_before_of(definition, self.container(definition))

    def register(self, current: str, image: PublishedImage, tasks_before: int | None) -> str:
        """Register the revision after `current`, which runs this image; returns its ARN.

        It remembers `tasks_before` for a later try of the deploy.
        """
        definition = self.definition(current)
        shape = self._ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
        fields = shape.members if shape else {}
        container = self.container(definition)
        revision = next_revision(definition, container, image, fields, tasks_before)
        with self._calls():
            made = self._ecs.register_task_definition(**revision)
        return made["taskDefinition"]["taskDefinitionArn"]

    def update(self, revision: str, tasks: int | None) -> None:
        """Have the service run a revision; on so many tasks, or on as many as it wants anyway.

        The call may be repeated: to a revision that it has already, ECS begins no deployment.
        """
        # A count that is not to change is not sent: autoscaling may change it in this moment.
        count: Any = {} if tasks is None else {"desiredCount": tasks}
        with self._calls():
            self._ecs.update_service(
                cluster=self.cluster, service=self.name, taskDefinition=revision, **count
            )

    def scale(self, tasks: int) -> None:
        """Have the service want so many tasks, of whatever it runs."""
        with self._calls():
            self._ecs.update_service(cluster=self.cluster, service=self.name, desiredCount=tasks)

    def deployments(self) -> list[Description]:
        """The latest service deployments, newest first, each with its `taskDefinition`."""
        with self._calls():
            listed = self._ecs.list_service_deployments(
                cluster=self.cluster, service=self.name, maxResults=_MOST_REVISIONS
            )["serviceDeployments"]
            arns = list({a for d in listed if (a := d.get("targetServiceRevisionArn"))})
            runs = {}
            if arns:
                told = self._ecs.describe_service_revisions(serviceRevisionArns=arns)
                runs = {
                    r["serviceRevisionArn"]: r["taskDefinition"] for r in told["serviceRevisions"]
                }
        found = [
            {**d, "taskDefinition": runs.get(d.get("targetServiceRevisionArn", ""))} for d in listed
        ]
        return sorted(found, key=lambda d: d["createdAt"], reverse=True)

    def deployment(self, arn: str) -> Description | None:
        """One service deployment, with its cause where it failed; None where ECS has it not yet."""
        with self._calls():
            found = self._ecs.describe_service_deployments(serviceDeploymentArns=[arn])
        return next(iter(found["serviceDeployments"]), None)

    def roll_back(self, arn: str) -> None:
        """Stop a service deployment, and have ECS go back to what ran before."""
        with self._calls():
            self._ecs.stop_service_deployment(serviceDeploymentArn=arn, stopType="ROLLBACK")

    def tasks(self, status: str) -> list[Description]:
        """The service's tasks whose desired status is RUNNING or STOPPED, newest first."""
        with self._calls():
            pages = self._ecs.get_paginator("list_tasks").paginate(
                cluster=self.cluster,
                serviceName=self.name,
                desiredStatus=status,  # type: ignore[arg-type]
            )
            arns = [arn for page in pages for arn in page["taskArns"]]
            found: list[Description] = []
            for start in range(0, len(arns), _MOST_DESCRIBED):
                some = arns[start : start + _MOST_DESCRIBED]
                answer = self._ecs.describe_tasks(cluster=self.cluster, tasks=some)
                found += answer["tasks"]
        return sorted(found, key=lambda task: str(task.get("createdAt", "")), reverse=True)

    def running(self) -> list[Description]:
        """The service's tasks that run now and are to go on, newest first."""
        return [task for task in self.tasks("RUNNING") if task["lastStatus"] == "RUNNING"]

    @contextmanager
    def _calls(self) -> Iterator[None]:
        with aws_faults(f"asking ECS about {self}"):
            try:
                yield
            except ClientError as error:
                if code_of(error) == "ClusterNotFoundException":
                    raise StackUnusable(
                        f"ECS has no cluster {self.cluster!r} in this account and region.",
                        hint="Correct cluster, or the region of the credentials, in the stack's "
                        "block.",
                    ) from error
                if code_of(error) in ("ServiceNotFoundException", "ServiceNotActiveException"):
                    raise StackUnusable(
                        f"The cluster {self.cluster} has no active service {self.name!r}.",
                        hint="Correct cluster or service in the stack's block.",
                    ) from error
                raise


def is_daemon(service: Description) -> bool:
    """Whether it has a task on each instance, so that nobody may say how many it wants."""
    return bool(service.get("schedulingStrategy") == "DAEMON")


def rollout_state(service: Description) -> str:
    """What ECS says of the service's own revision: COMPLETED, IN_PROGRESS, FAILED or nothing."""
    states = [d.get("rolloutState") for d in service["deployments"] if d["status"] == "PRIMARY"]
    return next(filter(None, states), "")
