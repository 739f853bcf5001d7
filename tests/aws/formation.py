"""moto's CloudFormation of ECS: task definitions and services as the template describes them.

moto passes on neither deployment configuration nor load balancers, writes the containers of an
updated task definition in CloudFormation's spelling, and leaves the service with the old one.

Sources: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ecs-service.html
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ecs-taskdefinition.html
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from moto.cloudformation.parsing import ResourceMap
from moto.core.utils import camelcase_to_underscores, pascal_to_camelcase, remap_nested_keys
from moto.ecs.models import Service, TaskDefinition, ecs_backends

from tests.aws.operations import Agent

_OF_TASK_DEFINITIONS = (
    "volumes", "networkMode", "requiresCompatibilities", "cpu", "memory", "taskRoleArn",
    "executionRoleArn", "runtimePlatform",
)  # fmt: skip


@contextmanager
def formed_by(agent: Agent) -> Iterator[None]:
    """Let moto's CloudFormation make services that really run, for as long as the block lasts."""
    formation, update = _Formation(agent), ResourceMap.update

    def update_at_once(resources: ResourceMap, *words: Any, **named: Any) -> None:
        # A service that has a new task definition and a new count is to have both.
        with agent.lock:
            update(resources, *words, **named)

    with ExitStack() as patches:
        patches.enter_context(patch.object(ResourceMap, "update", update_at_once))
        for kind, operation, handler in (
            (Service, "create", formation.create_service),
            (Service, "update", formation.update_service),
            (Service, "delete", formation.delete_service),
            (TaskDefinition, "create", formation.create_task_definition),
            (TaskDefinition, "update", formation.update_task_definition),
        ):
            name = f"{operation}_from_cloudformation_json"
            patches.enter_context(patch.object(kind, name, staticmethod(handler)))
        yield


def _plain(properties: dict[str, Any]) -> dict[str, Any]:
    """A template's properties in the API's spelling; a resource stands for its ARN."""
    plain: dict[str, Any] = remap_nested_keys(
        {key: getattr(value, "arn", value) for key, value in properties.items()},
        pascal_to_camelcase,
    )
    return _typed(plain)


def _typed(value: Any, key: str = "") -> Any:
    """Numbers and booleans as the API has them: parameters of a stack are text."""
    if isinstance(value, dict):
        return {name: _typed(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_typed(one, key) for one in value]
    if value in ("true", "false") and key != "value":
        return value == "true"
    numeric = re.search(r"(Count|Percent|Port|Minutes|interval|timeout|retries|Period)$", key)
    return int(value) if numeric and isinstance(value, str) else value


class _Formation:
    """The resources of ECS as CloudFormation makes, changes and deletes them."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._formed: dict[str, str] = {}
        """ARN of a service to that of the task definition that its stack names"""

    def create_service(
        self,
        resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Service:
        asked = _plain(cloudformation_json["Properties"])
        with self._agent.lock:
            service = ecs_backends[account_id][region_name].create_service(
                asked.get("cluster", "default"),
                asked.get("serviceName", resource_name),
                asked.get("desiredCount", 1),
                asked["taskDefinition"],
                load_balancers=asked.get("loadBalancers"),
                launch_type=asked.get("launchType"),
            )
            self._agent.adopt(service, asked.get("deploymentConfiguration"))
            self._formed[service.arn] = service.task_definition
        return service

    def update_service(
        self,
        original_resource: Service,
        new_resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> Service:
        asked = _plain(cloudformation_json["Properties"])
        if asked.get("cluster", "default").split("/")[-1] != original_resource.cluster_name:
            self.delete_service(original_resource.arn, {}, account_id, region_name)
            return self.create_service(
                new_resource_name, cloudformation_json, account_id, region_name
            )
        with self._agent.lock:
            named = original_resource._backend.describe_task_definition(asked["taskDefinition"]).arn
            changed = named != self._formed[original_resource.arn]
            self._formed[original_resource.arn] = named
            self._agent.services[original_resource.arn].update(
                named if changed else None,
                asked.get("desiredCount"),
                asked.get("deploymentConfiguration") or {},
            )
        return original_resource

    def delete_service(self, resource_name: str, _: Any, account_id: str, region_name: str) -> None:
        backend = ecs_backends[account_id][region_name]
        for service in list(backend.services.values()):
            if resource_name in (service.arn, service.name):
                backend.delete_service(service.cluster_name, service.name, force=True)
                self._formed.pop(service.arn, None)

    def create_task_definition(
        self,
        resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> TaskDefinition:
        backend = ecs_backends[account_id][region_name]
        return _register(cloudformation_json["Properties"], resource_name, backend)

    def update_task_definition(
        self,
        original_resource: TaskDefinition,
        new_resource_name: str,  # noqa: ARG002 - moto gives it by name
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> TaskDefinition:
        """Any change is a new revision; the old one becomes inactive, and services follow."""
        properties = cloudformation_json["Properties"]
        if _same(_plain(properties), original_resource):
            return original_resource
        backend = ecs_backends[account_id][region_name]
        new = _register(properties, original_resource.family, backend)
        backend.deregister_task_definition(original_resource.arn)
        # moto updates only what names a changed parameter itself.
        with self._agent.lock:
            for arn, named in self._formed.items():
                if named == original_resource.arn:
                    self._formed[arn] = new.arn
                    self._agent.services[arn].update(new.arn)
        return new


def _same(asked: dict[str, Any], existing: TaskDefinition) -> bool:
    return (
        asked["containerDefinitions"] == existing.container_definitions
        and asked.get("family", existing.family) == existing.family
        and all(
            str(asked[name]) == str(getattr(existing, camelcase_to_underscores(name)))
            for name in ("cpu", "memory", "networkMode")
            if name in asked
        )
    )


def _register(properties: dict[str, Any], family: str, backend: Any) -> TaskDefinition:
    asked = _plain(properties)
    more = {
        camelcase_to_underscores(name): asked[name]
        for name in _OF_TASK_DEFINITIONS
        if name in asked
    }
    return backend.register_task_definition(
        asked.get("family", family), asked["containerDefinitions"], **more
    )
