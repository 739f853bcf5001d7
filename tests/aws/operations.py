"""ECS's operations, in moto, as far as the agent has to answer them.

Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Operations.html
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from unittest.mock import patch

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.ecs.exceptions import InvalidParameterException, ServiceNotFoundException
from moto.ecs.models import EC2ContainerServiceBackend, Service
from moto.ecs.responses import EC2ContainerServiceResponse

from tests.aws.deployments import ManagedService
from tests.aws.rollouts import ServiceDeployment
from tests.aws.run_tasks import StandaloneTasks
from tests.aws.tasks import Task

Request = EC2ContainerServiceResponse
Backend = EC2ContainerServiceBackend


class Agent(Protocol):
    """What the operations need of the agent."""

    lock: Any
    services: dict[str, ManagedService]
    """By ARN"""
    standalone: StandaloneTasks

    def adopt(self, service: Service, settings: dict[str, Any] | None) -> ManagedService:
        """Run a service that was created."""


class ConflictException(ServiceException):
    """The service deployment has ended already."""

    code = "ConflictException"


class ServiceDeploymentNotFoundException(ServiceException):
    """There is no such service deployment."""

    code = "ServiceDeploymentNotFoundException"


@contextmanager
def answered_by(agent: Agent) -> Iterator[None]:
    """Let moto answer with what the agent knows, for as long as the block lasts."""
    with ExitStack() as patches:
        for kind, handlers in (
            (
                Request,
                {**_services(agent), **_service_deployments(agent), **_stop(agent), **_run(agent)},
            ),
            (Backend, {**_describe_services(agent), **_tasks(agent)}),
        ):
            for name, handler in handlers.items():
                patches.enter_context(
                    patch.object(kind, name, _locked(agent, handler), create=True)
                )
        yield


def _locked(agent: Agent, handler: Callable[..., Any]) -> Callable[..., Any]:
    def locked(*words: Any, **named: Any) -> Any:
        with agent.lock:
            return handler(*words, **named)

    return locked


def _find(agent: Agent, request: Request) -> ManagedService:
    backend, name = request.ecs_backend, request._get_param("service")
    cluster = backend._get_cluster(request._get_param("cluster", "default"))
    found = backend.services.get(f"{cluster.name}:{name.split('/')[-1]}")
    if found is None or found.arn not in agent.services:
        raise ServiceNotFoundException
    return agent.services[found.arn]


def _services(agent: Agent) -> dict[str, Callable[..., Any]]:
    """CreateService and UpdateService."""
    create, update = Request.create_service, Request.update_service

    def create_service(request: Request) -> ActionResult:
        cluster = request._get_param("cluster", "default").split("/")[-1]
        name = request._get_param("serviceName")
        existing = request.ecs_backend.services.get(f"{cluster}:{name}")
        if existing is not None and existing.status == "ACTIVE":
            raise InvalidParameterException("Creation of service was not idempotent.")
        service = create(request).result["service"]
        managed = agent.adopt(service, request._get_param("deploymentConfiguration"))
        return ActionResult({"service": managed.snapshot()})

    def update_service(request: Request) -> ActionResult:
        managed, given = _find(agent, request), request._get_params()
        if managed.service.status != "ACTIVE":
            raise ServiceException("ServiceNotActiveException", "Service was not ACTIVE.")
        # moto would set these as if all had been done.
        own = ("taskDefinition", "desiredCount", "forceNewDeployment", "deploymentConfiguration")
        with patch.object(
            request, "_get_params", lambda: {k: v for k, v in given.items() if k not in own}
        ):
            update(request)
        managed.update(
            given.get("taskDefinition"),
            given.get("desiredCount"),
            given.get("deploymentConfiguration"),
            force=bool(given.get("forceNewDeployment")),
        )
        return ActionResult({"service": managed.snapshot()})

    return {"create_service": create_service, "update_service": update_service}


def _service_deployments(agent: Agent) -> dict[str, Callable[..., Any]]:
    """ListServiceDeployments, DescribeServiceDeployments and DescribeServiceRevisions."""

    def list_service_deployments(request: Request) -> ActionResult:
        status, created = request._get_param("status", []), request._get_param("createdAt") or {}
        found = [
            one.brief()
            for one in _find(agent, request).deployments
            if (not status or one.status in status)
            and _within(one.times["createdAt"].timestamp(), created)
        ]
        return ActionResult({"serviceDeployments": found})

    def describe_service_deployments(request: Request) -> ActionResult:
        arns = request._get_param("serviceDeploymentArns", [])
        known = {one.arn: one for service in agent.services.values() for one in service.deployments}
        return _known_and_missing("serviceDeployments", arns, {
            arn: one.describe() for arn, one in known.items()
        })  # fmt: skip

    def describe_service_revisions(request: Request) -> ActionResult:
        revisions = {
            one.arn: {
                "serviceRevisionArn": one.arn,
                "serviceArn": one.service_arn,
                "clusterArn": one.cluster_arn,
                "taskDefinition": one.task_definition,
                "launchType": service.service.launch_type,
                "createdAt": one.created_at,
                "containerImages": [
                    {"containerName": container["name"], "image": container["image"]}
                    for container in one.containers
                ],
            }
            for service in agent.services.values()
            for one in service.revisions
        }
        arns = request._get_param("serviceRevisionArns", [])
        return _known_and_missing("serviceRevisions", arns, revisions)

    return {
        "list_service_deployments": list_service_deployments,
        "describe_service_deployments": describe_service_deployments,
        "describe_service_revisions": describe_service_revisions,
    }


def _within(seconds: float, limits: dict[str, Any]) -> bool:
    before, after = (_seconds(limits.get(name)) for name in ("before", "after"))
    return (before is None or seconds < before) and (after is None or seconds > after)


def _seconds(time: Any) -> float | None:
    """A time stamp of a request: seconds, or a datetime where moto has parsed it."""
    return time.timestamp() if hasattr(time, "timestamp") else time


def _known_and_missing(name: str, arns: list[str], known: dict[str, Any]) -> ActionResult:
    return ActionResult({
        name: [known[arn] for arn in arns if arn in known],
        "failures": [{"arn": arn, "reason": "MISSING"} for arn in arns if arn not in known],
    })  # fmt: skip


def _stop(agent: Agent) -> dict[str, Callable[..., Any]]:
    """StopServiceDeployment."""

    def deployment(arn: str) -> tuple[ManagedService, ServiceDeployment]:
        for service in agent.services.values():
            for one in service.deployments:
                if one.arn == arn:
                    return service, one
        raise ServiceDeploymentNotFoundException(f"The service deployment {arn} was not found.")

    def stop_service_deployment(request: Request) -> ActionResult:
        arn = request._get_param("serviceDeploymentArn")
        if request._get_param("stopType", "ROLLBACK") != "ROLLBACK":
            raise InvalidParameterException("The stop type is not supported: only ROLLBACK is.")
        service, found = deployment(arn)
        if found.final:
            raise ConflictException(
                f"The service deployment {arn} is {found.status} and cannot be stopped."
            )
        service.stop_deployment(found)
        return ActionResult({"serviceDeploymentArn": arn})

    return {"stop_service_deployment": stop_service_deployment}


def _run(agent: Agent) -> dict[str, Callable[..., Any]]:
    """RunTask."""

    def run_task(request: Request) -> ActionResult:
        backend = request.ecs_backend
        tasks = [
            agent.standalone.run(
                backend.describe_task_definition(request._get_param("taskDefinition")),
                backend._get_cluster(request._get_param("cluster", "default")).arn,
                request._get_param("overrides") or {},
                request._get_param("startedBy") or "",
                request._get_param("launchType") or "EC2",
            ).describe()
            for _ in range(request._get_int_param("count", 1))
        ]
        return ActionResult({"tasks": tasks, "failures": []})

    return {"run_task": run_task}


def _describe_services(agent: Agent) -> dict[str, Callable[..., Any]]:
    """DescribeServices and DeleteService."""
    describe, delete = Backend.describe_services, Backend.delete_service

    def describe_services(backend: Backend, cluster: str, names: list[str]) -> Any:
        found, failures = describe(backend, cluster, names)
        return [
            agent.services[one.arn].snapshot() if one.arn in agent.services else one
            for one in found
        ], failures

    def delete_service(backend: Backend, cluster_name: str, service_name: str, force: bool) -> Any:
        name = service_name.rsplit("/", maxsplit=1)[-1]
        service = delete(backend, cluster_name, name, force)
        if service.arn in agent.services:
            agent.services[service.arn].delete()
            return agent.services[service.arn].snapshot()
        return service

    return {"describe_services": describe_services, "delete_service": delete_service}


def _tasks(agent: Agent) -> dict[str, Callable[..., Any]]:
    """ListTasks, DescribeTasks and StopTask: moto's own, and those that really run."""
    listed, described, stopped = Backend.list_tasks, Backend.describe_tasks, Backend.stop_task

    def own(cluster: str, wanted: Callable[[Task], bool] = lambda _: True) -> list[Task]:
        arn = f":cluster/{cluster.rsplit('/', maxsplit=1)[-1]}"
        tasks = (task for service in agent.services.values() for task in service.tasks)
        return [
            task
            for task in (*tasks, *agent.standalone.tasks)
            if task.revision.cluster_arn.endswith(arn) and wanted(task)
        ]

    def list_tasks(
        backend: Backend,
        cluster_str: str = "default",
        container_instance: str | None = None,
        family: str | None = None,
        started_by: str | None = None,
        service_name: str | None = None,
        desired_status: str | None = None,
    ) -> list[Any]:
        def asked(task: Task) -> bool:
            return (
                family in (None, task.revision.family)
                and started_by in (None, task.started_by)
                and (service_name is None or service_name.split("/")[-1] == task.service)
                and task.desired_status == (desired_status or "RUNNING")
            )

        if service_name:
            backend._get_service(cluster_str, service_name)
            return own(cluster_str, asked)
        others = listed(
            backend, cluster_str, container_instance, family, started_by, None, desired_status
        )
        return [*others, *(own(cluster_str, asked) if not container_instance else [])]

    def describe_tasks(backend: Backend, cluster: str, names: list[str]) -> list[Any]:
        ids = {name.split("/")[-1] for name in names}
        mine = own(cluster, lambda task: task.id in ids)
        return [*described(backend, cluster, names), *(task.describe() for task in mine)]

    def stop_task(backend: Backend, cluster: str, name: str, reason: str | None) -> Any:
        reason = reason or "Task stopped by user"
        for owner in (*agent.services.values(), agent.standalone):
            for task in owner.tasks:
                if task.id == name.rsplit("/", maxsplit=1)[-1]:
                    owner.stop_task(task, reason, "UserInitiated")
                    return task.describe()
        return stopped(backend, cluster, name, reason)

    return {"list_tasks": list_tasks, "describe_tasks": describe_tasks, "stop_task": stop_task}
