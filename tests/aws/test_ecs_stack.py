"""A stack on ECS: deploys that are followed to their end, verified, and never two.

Against the stand-in for AWS: the role's policy is enforced, the tasks really run.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from blocks.aws import EcsStack, connection, rollout, verification
from blocks.engine import Engine
from deployments.provisioning import PROJECT
from domain.errors import AwsRefused, AwsUnavailable, DeployFailed, SamebitsError, StackUnusable
from domain.image import PublishedImage
from tests.aws.stacks import Account, running_account
from tests.conftest import Origin, RunningRegistry
from tests.services import published
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

Version = Callable[..., PublishedImage]
ABSENT = "sha256:" + "0" * 64
SICK = {"NEEDS": "", "hello.py": "import time; time.sleep(3600)"}


@pytest.fixture
def made(engine: Engine) -> Iterator[ExitStack]:
    """What is removed after the account, whose tasks use it."""
    with ExitStack() as images:
        yield images


@pytest.fixture
def account(
    running_registry: RunningRegistry, name: str, made: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Account]:
    """An account with the example's template."""
    for module in (rollout, verification):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.2)
    with running_account(running_registry.block.address, f"{name}-ecs") as running:
        yield running


@pytest.fixture
def version(engine: Engine, account: Account, made: ExitStack, origin: Origin) -> Version:
    """Makes a version of the example that is published in ECR."""
    registry = account.registry()
    return lambda *words, **more: made.enter_context(
        published(engine, registry, origin, *words, name="hello-service", **more)
    )


@pytest.fixture
def stack(account: Account, version: Version) -> EcsStack:
    """Stage."""
    return account.stack("stage", timeout_seconds=60)


class Log(list[str]):
    """The log of a deploy."""

    def __call__(self, line: str) -> None:
        self.append(line)

    def __contains__(self, part: object) -> bool:
        return any(str(part) in line for line in self)


def deploy(account: Account, stack: EcsStack, image: PublishedImage, log: Log | None = None) -> Any:
    return stack.deploy("aws-stage", image, account.registry(), Log() if log is None else log)


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


# -- good releases ----------------------------------------------------------------------------


def test_a_release_runs_by_digest_and_what_serves_is_read_back(
    account: Account, stack: EcsStack, version: Version
) -> None:
    one, two, log = version("one"), version("two"), Log()
    assert stack.serving("aws-stage") is None
    assert deploy(account, stack, one).digest == one.digest
    assert "version one" in said(account)
    serving = deploy(account, stack, two, log)
    assert (serving.digest, serving.sha) == (two.digest, two.commit.sha)
    assert stack.serving("aws-stage") == serving
    assert "version two" in said(account)
    assert [d["status"] for d in deployments(account, stack)] == ["SUCCESSFUL", "SUCCESSFUL"]
    assert "has reached a steady state" in log
    assert "SUCCESSFUL" in log


def test_a_service_that_wants_no_task_gets_as_many_as_the_block_says(
    account: Account, stack: EcsStack, version: Version
) -> None:
    two_tasks = stack.model_copy(update={"least_tasks": 2})
    assert service_of(account, stack)["desiredCount"] == 0
    deploy(account, two_tasks, version("one"))
    now = service_of(account, stack)
    assert (now["desiredCount"], now["runningCount"]) == (2, 2)


def test_what_runs_already_is_not_deployed_again_and_an_older_one_is_a_rollback(
    account: Account, stack: EcsStack, version: Version
) -> None:
    one, two = version("one"), version("two")
    for image in (one, two):
        deploy(account, stack, image)
    log = Log()
    deploy(account, stack, two, log)
    assert "already" in log
    assert len(deployments(account, stack)) == 2
    assert deploy(account, stack, one).sha == one.commit.sha
    assert "version one" in said(account)


def test_the_rest_of_the_task_definition_stays_as_the_operator_made_it(
    account: Account, stack: EcsStack, version: Version
) -> None:
    deploy(account, stack, version("one"))

    def change(definition: dict[str, Any]) -> None:
        (container,) = definition["containerDefinitions"]
        container["environment"] = [{"name": "TOKEN", "value": "x"}]

    revised(account, stack, change)
    deploy(account, stack, version("two", needs="TOKEN"))
    assert "version two" in said(account)


@pytest.mark.parametrize("strategy", ["BLUE_GREEN", "CANARY"])
def test_the_deployment_strategy_of_the_service_is_followed_to_its_end(
    account: Account, stack: EcsStack, version: Version, strategy: str
) -> None:
    deploy(account, stack, version("one"))
    canary = {"canaryPercent": 10.0, "canaryBakeTimeInMinutes": 1}
    account.cloud.client("ecs").update_service(
        **place(stack),
        deploymentConfiguration={
            "strategy": strategy,
            "bakeTimeInMinutes": 1,
            "deploymentCircuitBreaker": {"enable": True, "rollback": True},
            **({"canaryConfiguration": canary} if strategy == "CANARY" else {}),
        },
    )
    two, log = version("two"), Log()
    assert deploy(account, stack, two, log).digest == two.digest
    assert "BAKE_TIME" in log
    assert "version two" in said(account)


# -- bad releases -----------------------------------------------------------------------------


def test_a_version_that_crashes_is_rolled_back_and_the_waiter_of_the_sdk_is_not_believed(
    account: Account, stack: EcsStack, version: Version
) -> None:
    old, new = version("old"), version("new", needs="TOKEN")
    deploy(account, stack, old)
    error = failed_deploy(account, stack, new)
    # What the SDK would have taken for a success:
    account.cloud.client("ecs").get_waiter("services_stable").wait(
        cluster=stack.cluster, services=[stack.service], WaiterConfig={"MaxAttempts": 1}
    )
    text = str(error)
    assert "ROLLBACK_SUCCESSFUL" in text
    assert "exit code 1" in text
    assert f"{old.digest} (commit {old.commit.sha[:8]}) serves now" in text
    assert error.log[-1] == "The setting TOKEN is missing: this version cannot start."
    assert not error.retryable
    assert "version old" in said(account)
    assert stack.serving("aws-stage").digest == old.digest  # type: ignore[union-attr]


def test_a_crashed_version_that_is_deployed_again_is_tried_again(
    account: Account, stack: EcsStack, version: Version
) -> None:
    new = version("new", needs="TOKEN")
    deploy(account, stack, version("old"))
    failed_deploy(account, stack, new)

    def change(definition: dict[str, Any]) -> None:
        definition["containerDefinitions"][0]["environment"] = [{"name": "TOKEN", "value": "x"}]

    revised(account, stack, change)
    assert deploy(account, stack, new).digest == new.digest
    assert "version new" in said(account)


def test_a_version_that_is_never_healthy_is_rolled_back(
    account: Account, stack: EcsStack, version: Version
) -> None:
    old = version("old")
    deploy(account, stack, old)
    error = failed_deploy(account, stack, version("new", files=SICK))
    assert "health check" in str(error)
    assert f"{old.digest} (commit {old.commit.sha[:8]}) serves now" in str(error)
    assert "version old" in said(account)


def test_a_digest_that_is_not_in_the_registry_is_named_as_a_pull_error(
    account: Account, stack: EcsStack, version: Version
) -> None:
    old = version("old")
    deploy(account, stack, old)
    error = failed_deploy(account, stack, old.model_copy(update={"digest": ABSENT}))
    assert "CannotPullContainerError" in str(error)
    assert f"{old.digest} (commit {old.commit.sha[:8]}) serves now" in str(error)


def test_the_first_version_ever_may_crash_and_nothing_serves(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "ROLLBACK_SECONDS", 1)  # the template's own image cannot be pulled
    error = failed_deploy(account, stack, version("new", needs="TOKEN"))
    assert "exit code 1" in str(error)
    assert "Nothing serves now" in str(error)


def test_a_deployment_that_takes_too_long_is_stopped_and_rolled_back(
    account: Account, stack: EcsStack, version: Version
) -> None:
    old = version("old")
    deploy(account, stack, old)
    account.agent.hold(stack.service)
    short = stack.model_copy(update={"timeout_seconds": 2})
    error = failed_deploy(account, short, version("new"))
    assert "not done after 2 s, and was stopped." in str(error)
    assert "ROLLBACK_SUCCESSFUL" in str(error)
    assert f"{old.digest} (commit {old.commit.sha[:8]}) serves now" in str(error)
    assert "version old" in said(account)


def test_without_a_circuit_breaker_the_time_out_names_the_crash(
    account: Account, stack: EcsStack, version: Version
) -> None:
    deploy(account, stack, version("old"))
    account.cloud.client("ecs").update_service(
        **place(stack),
        deploymentConfiguration={"deploymentCircuitBreaker": {"enable": False, "rollback": False}},
    )
    short = stack.model_copy(update={"timeout_seconds": 5})
    error = failed_deploy(account, short, version("new", needs="TOKEN"))
    assert "was stopped" in str(error)
    assert "exit code 1" in str(error)
    assert "version old" in said(account)


def test_a_deployment_that_ended_badly_without_a_rollback_is_made_anew(
    account: Account, stack: EcsStack, version: Version
) -> None:
    deploy(account, stack, version("old"))
    account.cloud.client("ecs").update_service(
        **place(stack),
        deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": False}},
    )
    new, log = version("new", needs="TOKEN"), Log()
    assert "STOPPED" in str(failed_deploy(account, stack, new))
    with pytest.raises(DeployFailed):
        deploy(account, stack, new, log)
    assert "deploying it again" in log


def test_a_success_that_does_not_run_the_image_is_a_failed_deploy(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "SETTLES_SECONDS", 1)
    old, new = version("old"), version("new")
    deploy(account, stack, old)
    # Somebody else's update takes the place of ours, and all that ECS says is true of theirs.
    monkeypatch.setattr(rollout.Rollout, "_deployment_made", lambda _: None)
    error = failed_deploy(account, stack, new)
    assert f"does not run {new.digest} after the deploy" in str(error)
    assert f"{old.digest} (commit {old.commit.sha[:8]}) serves now" in str(error)


# -- never two --------------------------------------------------------------------------------

_DEPLOY = """
import json, sys
from prefect_aws import AwsCredentials
from blocks.aws import EcsStack
from domain.image import PublishedImage
given = json.load(sys.stdin)
stack = EcsStack(**given["stack"])
stack.deploy("aws-stage", PublishedImage(**given["image"]), None, print)
"""


def test_a_deploy_that_was_killed_is_taken_over_by_its_retry(
    account: Account, stack: EcsStack, version: Version
) -> None:
    old, new = version("old"), version("new")
    deploy(account, stack, old)
    account.agent.hold(stack.service)
    account.cloud.calls.clear()
    given = {"stack": secrets_too(stack), "image": new.model_dump(mode="json")}
    worker = subprocess.Popen(
        [sys.executable, "-c", _DEPLOY], stdin=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert worker.stdin
    worker.stdin.write(json.dumps(given))
    worker.stdin.close()
    try:
        wait_until(lambda: updates(account) == 1, 30, "the worker's update")
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    account.agent.release(stack.service)
    log = Log()
    assert deploy(account, stack, new, log).digest == new.digest
    assert updates(account) == 1
    assert len(deployments(account, stack)) == 2
    assert "version new" in said(account)


def secrets_too(stack: EcsStack) -> dict[str, Any]:
    whole = stack.model_dump(mode="json", exclude_none=True)
    for name in list(whole):
        if name.startswith(("_", "block_")):
            del whole[name]
    return whole | {
        "credentials": {
            "aws_access_key_id": "AKIAWORKER0000000000",
            "aws_secret_access_key": "secret",
            "region_name": stack.credentials.region_name,
            "assume_role_arn": stack.credentials.assume_role_arn,
            "assume_role_kwargs": {"ExternalId": stack.credentials.assume_role_kwargs.ExternalId},
            "aws_client_parameters": {
                "endpoint_url": stack.credentials.aws_client_parameters.endpoint_url
            },
        }
    }


def test_a_deployment_of_another_image_that_is_under_way_is_waited_for(
    account: Account, stack: EcsStack, version: Version
) -> None:
    one, two, log = version("one"), version("two"), Log()
    deploy(account, stack, version("old"))
    account.agent.hold(stack.service)
    quick = stack.model_copy(update={"timeout_seconds": 1})

    def change(definition: dict[str, Any]) -> None:
        definition["containerDefinitions"][0]["image"] = one.reference

    revised(account, stack, change)
    assert "still busy" in str(failed_deploy(account, quick, two))
    assert deployments(account, stack)[0]["status"] == "IN_PROGRESS"
    account.agent.release(stack.service)
    deploy(account, stack, two, log)
    assert "waiting for it" in log or "version two" in said(account)
    assert [d["status"] for d in deployments(account, stack)] == ["SUCCESSFUL"] * 3
    assert "version two" in said(account)


# -- AWS refuses ------------------------------------------------------------------------------

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
    deploy(account, stack, version("old"))
    account.agent.hold(stack.service)
    account.cloud.faults.deny("ecs:StopServiceDeployment")
    short = stack.model_copy(update={"timeout_seconds": 1})
    error = failed_deploy(account, short, version("new"))
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
