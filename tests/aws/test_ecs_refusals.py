"""A stack on ECS: what AWS refuses, and blocks that lead nowhere."""

from typing import Any

import pytest

from blocks.aws import EcsStack, connection
from domain.errors import AwsRefused, AwsUnavailable, SamebitsError, StackUnusable
from tests.aws.ecs_deploys import (
    Version,
    deploy,
    deployments,
    failed_deploy,
    revised,
    serves,
    service_of,
    set_to,
)
from tests.aws.stacks import Account

pytestmark = pytest.mark.engine

ACTIONS = (
    "ecs:DescribeServices",
    "ecs:ListServiceDeployments",
    "ecs:DescribeServiceRevisions",
    "ecs:DescribeTaskDefinition",
    "ecs:RegisterTaskDefinition",
    "ecs:UpdateService",
    "ecs:DescribeServiceDeployments",
    "ecs:ListTasks",
    "ecs:DescribeTasks",
)


def test_each_missing_permission_is_one_message_that_names_it(
    account: Account, stack: EcsStack, version: Version
) -> None:
    image = version("one")
    for action in ACTIONS:
        account.cloud.faults.deny(action)
        with pytest.raises(AwsRefused, match=f"may not do this: {action} ") as caught:
            deploy(account, stack, image)
        assert not caught.value.retryable
        account.cloud.faults.clear()
    account.cloud.faults.enforce_policies()
    assert deploy(account, stack, image).digest == image.digest


def test_a_missing_permission_to_roll_back_is_named_with_what_goes_on(
    account: Account, stack: EcsStack, version: Version
) -> None:
    old, new = version("old"), version("new")
    deploy(account, stack, old)
    account.agent.hold(stack.service)
    account.cloud.faults.deny("ecs:StopServiceDeployment")
    short = stack.model_copy(update={"timeout_seconds": 1})
    error = failed_deploy(account, short, new)
    assert "the deployment is still IN_PROGRESS" in str(error)
    assert serves(old) + set_to(new) in str(error)
    assert "could not be rolled back" in str(error)
    assert "ecs:StopServiceDeployment" in str(error)


def test_a_missing_permission_to_read_the_log_hides_no_cause(
    account: Account, stack: EcsStack, version: Version
) -> None:
    deploy(account, stack, version("old"))
    account.cloud.faults.deny("logs:GetLogEvents")
    error = failed_deploy(account, stack, version("new", needs="TOKEN"))
    assert "exit code 1" in str(error)
    assert "logs:GetLogEvents" in error.log[-1]


@pytest.mark.parametrize(
    "action", ["ecs:DescribeServices", "ecs:UpdateService", "ecs:DescribeServiceDeployments"]
)
def test_calls_that_are_throttled_for_a_while_are_made_again(
    account: Account, stack: EcsStack, version: Version, action: str
) -> None:
    account.cloud.faults.throttle(action, 3)
    image = version("one")
    assert deploy(account, stack, image).digest == image.digest
    assert len(deployments(account, stack)) == 1


def test_throttling_without_an_end_is_bounded_and_worth_a_retry_that_makes_no_second_deployment(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = connection._PATIENT.merge(
        connection.Config(retries={"mode": "adaptive", "total_max_attempts": 2})
    )
    monkeypatch.setattr(connection, "_PATIENT", few)
    image = version("one")
    account.cloud.faults.throttle("ecs:DescribeServiceDeployments", 1000)
    with pytest.raises(AwsUnavailable) as caught:
        deploy(account, stack, image)
    assert caught.value.retryable
    account.cloud.faults.clear()
    account.cloud.faults.enforce_policies()
    assert deploy(account, stack, image).digest == image.digest
    assert len(deployments(account, stack)) == 1


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": "nowhere"}, "no cluster 'nowhere'"),
        ({"service": "nothing"}, "no active service 'nothing'"),
        ({"container": "web"}, "no container 'web'.*It has: service"),
    ],
)
def test_a_block_that_leads_nowhere_is_named(
    account: Account,
    stack: EcsStack,
    version: Version,
    fields: dict[str, str],
    message: str,
) -> None:
    account.cloud.faults.clear()  # where a role may not look, AWS says only that
    with pytest.raises((StackUnusable, SamebitsError), match=message):
        deploy(account, stack.model_copy(update=fields), version("one"))


def test_with_several_containers_the_block_says_which_one_is_replaced(
    account: Account, stack: EcsStack, version: Version
) -> None:
    sidecar, one = version("sidecar"), version("one")

    def change(definition: dict[str, Any]) -> None:
        (service,) = definition["containerDefinitions"]
        extra = {"name": "sidecar", "image": sidecar.reference, "essential": False}
        definition["containerDefinitions"] = [extra, service]

    revised(account, stack, change)
    with pytest.raises(StackUnusable, match=r"2 containers: sidecar, service.*field container"):
        deploy(account, stack, one)
    named = stack.model_copy(update={"container": "service"})
    assert deploy(account, named, one).digest == one.digest
    current = service_of(account, stack)["taskDefinition"]
    found = account.cloud.client("ecs").describe_task_definition(taskDefinition=current)
    images = [c["image"] for c in found["taskDefinition"]["containerDefinitions"]]
    assert images == [sidecar.reference, one.reference]


def test_a_service_whose_deployments_codedeploy_makes_is_refused(
    account: Account, stack: EcsStack, version: Version
) -> None:
    ecs = account.cloud.client("ecs")
    account.cloud.faults.clear()
    ecs.create_service(
        cluster=stack.cluster,
        serviceName="elsewhere",
        taskDefinition=service_of(account, stack)["taskDefinition"],
        desiredCount=0,
        deploymentController={"type": "CODE_DEPLOY"},
    )
    with pytest.raises(StackUnusable, match="made by CODE_DEPLOY, not by ECS"):
        deploy(account, stack.model_copy(update={"service": "elsewhere"}), version("one"))
