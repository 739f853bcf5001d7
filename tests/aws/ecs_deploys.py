"""What the tests of the ECS stack share: deploys, and looks at what became of them."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from blocks.aws import EcsStack
from domain.errors import DeployFailed
from domain.image import PublishedImage
from tests.aws.stacks import Account
from tests.turns import a_turn

Version = Callable[..., PublishedImage]
"""Publishes a version that says these words"""


class Log(list[str]):
    """The log of a deploy."""

    def __call__(self, line: str) -> None:
        self.append(line)

    def __contains__(self, part: object) -> bool:
        return any(str(part) in line for line in self)


def deploy(account: Account, stack: EcsStack, image: PublishedImage, log: Log | None = None) -> Any:
    return stack.deploy(
        "aws-stage", image, account.registry(), a_turn(), Log() if log is None else log
    )


def failed_deploy(account: Account, stack: EcsStack, image: PublishedImage) -> DeployFailed:
    with pytest.raises(DeployFailed) as caught:
        deploy(account, stack, image)
    return caught.value


def said(account: Account) -> str:
    return httpx.get(account.address("stage"), timeout=5).raise_for_status().text


def place(stack: EcsStack) -> dict[str, str]:
    return {"cluster": stack.cluster, "service": stack.service}


def service_of(account: Account, stack: EcsStack) -> dict[str, Any]:
    ecs = account.cloud.client("ecs")
    found = ecs.describe_services(cluster=stack.cluster, services=[stack.service])["services"]
    return dict(found[0])


def deployments(account: Account, stack: EcsStack) -> list[dict[str, Any]]:
    """The service deployments that were made since the service was, the newest first."""
    found = account.cloud.client("ecs").list_service_deployments(**place(stack))
    return list(found["serviceDeployments"])[:-1]


def updates(account: Account) -> int:
    return [call.action for call in account.cloud.calls].count("ecs:UpdateService")


def revised(account: Account, stack: EcsStack, change: Callable[[dict[str, Any]], None]) -> None:
    """Have an operator change the service's task definition by hand."""
    ecs = account.cloud.client("ecs")
    current = service_of(account, stack)["taskDefinition"]
    found = ecs.describe_task_definition(taskDefinition=current)["taskDefinition"]
    change(found)
    shape = ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
    made = ecs.register_task_definition(**{k: v for k, v in found.items() if k in shape.members})
    ecs.update_service(**place(stack), taskDefinition=made["taskDefinition"]["taskDefinitionArn"])


def without_rollback(account: Account, stack: EcsStack) -> None:
    """From now on a deployment that fails is only stopped."""
    breaker = {"enable": True, "rollback": False}
    account.cloud.client("ecs").update_service(
        **place(stack), deploymentConfiguration={"deploymentCircuitBreaker": breaker}
    )


def serves(image: PublishedImage) -> str:
    """How a failed deploy says that this image serves."""
    return f"{image.digest} (commit {image.commit.sha[:8]}) serves now"


def set_to(image: PublishedImage) -> str:
    """How a failed deploy says that the service is set to this image, which does not serve."""
    return f"; the service is set to {image.digest} (commit {image.commit.sha[:8]})."
