"""A stack on ECS: deploys that are followed to their end and verified.

Against the stand-in for AWS: the role's policy is enforced, the tasks really run.
"""

from typing import Any

import pytest
from cfnlint import decode

from blocks.aws import EcsStack, rollout, verification
from blocks.aws.ecs_service import EcsService
from domain.errors import DeployFailed, Overtaken, RunEnded, Superseded
from tests.aws.ecs_deploys import (
    Log,
    Version,
    deploy,
    deployments,
    failed_deploy,
    place,
    revised,
    said,
    serves,
    service_of,
    set_to,
    without_rollback,
)
from tests.aws.stacks import EXAMPLES, Account
from tests.turns import Refused, a_turn, of_a_cancelled_run

pytestmark = pytest.mark.engine

ABSENT = "sha256:" + "0" * 64
SICK = {"NEEDS": "", "hello.py": "import time; time.sleep(3600)"}


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


def test_a_commit_that_has_to_give_way_is_not_even_registered(
    account: Account, stack: EcsStack, version: Version
) -> None:
    one, two = version("one"), version("two")
    serving, refused = deploy(account, stack, one), Refused()
    with pytest.raises(Superseded):
        stack.deploy("aws-stage", two, account.registry(), refused.turn, Log())
    assert refused.seen == [serving]
    assert stack.serving("aws-stage") == serving
    assert len(deployments(account, stack)) == 1


def test_a_run_that_has_ended_before_it_deploys_asks_aws_for_nothing(
    account: Account, stack: EcsStack, version: Version
) -> None:
    image = version("one")
    account.cloud.calls.clear()
    with pytest.raises(RunEnded):
        stack.deploy("aws-stage", image, account.registry(), of_a_cancelled_run(), Log())
    assert account.cloud.calls.actions() == []


def test_a_service_that_somebody_else_has_updated_meanwhile_is_left_alone(
    account: Account, stack: EcsStack, version: Version
) -> None:
    one, two, three = version("one"), version("two"), version("three")
    deploy(account, stack, one)

    def sleep_through_another_deploy(line: str) -> None:
        if line.startswith("Registered"):
            deploy(account, stack, three)

    with pytest.raises(Overtaken, match="Nothing was changed"):
        stack.deploy("aws-stage", two, account.registry(), a_turn(), sleep_through_another_deploy)
    assert "version three" in said(account)
    assert len(deployments(account, stack)) == 2


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


def test_the_templates_own_health_check_finds_the_example_healthy(
    account: Account, stack: EcsStack, version: Version
) -> None:
    template, _ = decode.decode(str(EXAMPLES / "template.yaml"))
    command = template["Parameters"]["HealthCheckCommand"]["Default"]

    def change(definition: dict[str, Any]) -> None:
        definition["containerDefinitions"][0]["healthCheck"]["command"] = ["CMD-SHELL", command]

    revised(account, stack, change)
    one = version("one")
    assert deploy(account, stack, one).digest == one.digest
    tasks = account.cloud.client("ecs").list_tasks(cluster=stack.cluster)["taskArns"]
    told = account.cloud.client("ecs").describe_tasks(cluster=stack.cluster, tasks=tasks)
    assert [task["healthStatus"] for task in told["tasks"]] == ["HEALTHY"]


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
            "bakeTimeInMinutes": 3,  # seconds here: long enough to be seen
            "deploymentCircuitBreaker": {"enable": True, "rollback": True},
            **({"canaryConfiguration": canary} if strategy == "CANARY" else {}),
        },
    )
    two, log = version("two"), Log()
    assert deploy(account, stack, two, log).digest == two.digest
    assert "BAKE_TIME" in log
    assert "version two" in said(account)


def test_a_deployment_that_waits_for_an_approval_says_how_to_give_it_and_so_does_its_time_out(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, log = EcsService.deployment, Log()
    hook = {"hookId": "hook-1", "targetType": "PAUSE", "status": "AWAITING_ACTION"}

    def paused(service: EcsService, arn: str) -> Any:
        return {**(describe(service, arn) or {}), "lifecycleHookDetails": [hook]}

    monkeypatch.setattr(EcsService, "deployment", paused)
    account.agent.hold(stack.service)
    short = stack.model_copy(update={"timeout_seconds": 1})
    with pytest.raises(DeployFailed, match="nobody continued it at its hook hook-1, and was stop"):
        deploy(account, short, version("one"), log)
    asked = [line for line in log if "continue-service-deployment" in line]
    assert len(asked) == 1
    assert "--hook-id hook-1 --action CONTINUE" in asked[0]


def test_with_early_success_criteria_the_tasks_that_start_later_are_waited_for(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "SETTLES_SECONDS", 0)
    describe, running, looked = EcsService.describe, EcsService.running, list[int]()
    early = {"earlySuccessCriteria": {"enable": True, "healthyPercent": 50}}

    def few(service: EcsService) -> list[Any]:
        looked.append(1)
        return list(running(service)) if len(looked) > 3 else []

    monkeypatch.setattr(EcsService, "running", few)
    monkeypatch.setattr(
        EcsService, "describe", lambda one: {**describe(one), "deploymentConfiguration": early}
    )
    one = version("one")
    assert deploy(account, stack, one).digest == one.digest
    assert len(looked) > 3


def test_how_many_tasks_a_daemon_has_is_left_to_ecs(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = EcsService.describe
    account.cloud.client("ecs").update_service(**place(stack), desiredCount=1)
    monkeypatch.setattr(
        EcsService, "describe", lambda one: {**describe(one), "schedulingStrategy": "DAEMON"}
    )
    one = version("one")
    many = stack.model_copy(update={"least_tasks": 5})
    assert deploy(account, many, one).digest == one.digest
    assert service_of(account, stack)["desiredCount"] == 1


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
    assert "circuit breaker threshold was exceeded" in text
    assert serves(old) in text
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
    assert serves(old) in str(error)
    assert "version old" in said(account)


def test_a_digest_that_is_not_in_the_registry_is_named_as_a_pull_error(
    account: Account, stack: EcsStack, version: Version
) -> None:
    old = version("old")
    deploy(account, stack, old)
    error = failed_deploy(account, stack, old.model_copy(update={"digest": ABSENT}))
    assert "CannotPullContainerError" in str(error)
    assert serves(old) in str(error)


def test_the_first_version_ever_may_crash_and_nothing_serves(
    account: Account, stack: EcsStack, version: Version
) -> None:
    error = failed_deploy(account, stack, version("new", needs="TOKEN"))
    assert "exit code 1" in str(error)
    assert "Nothing serves now; the service is set to public.ecr.aws" in str(error)
    # Else the template's own image, which cannot be pulled here, would be tried for ever.
    assert "ROLLBACK_SUCCESSFUL" in str(error)
    assert service_of(account, stack)["desiredCount"] == 0
    assert deploy(account, stack, version("good")).digest
    assert service_of(account, stack)["desiredCount"] == 1


def test_what_autoscaling_has_made_of_the_tasks_in_the_meantime_stays(
    account: Account, stack: EcsStack, version: Version
) -> None:
    def scaled(line: str) -> None:
        if "Registered" in line:
            account.agent.hold(stack.service)
        if "Deployment" in line and "IN_PROGRESS" in line:
            ecs.update_service(**place(stack), desiredCount=2)
            account.agent.release(stack.service)

    ecs, old = account.cloud.client("ecs"), version("old")
    deploy(account, stack, old)
    ecs.update_service(**place(stack), desiredCount=0)
    with pytest.raises(DeployFailed):
        stack.deploy(
            "aws-stage", version("new", needs="TOKEN"), account.registry(), a_turn(), scaled
        )
    assert service_of(account, stack)["desiredCount"] == 2


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
    assert serves(old) in str(error)
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
    old, new, log = version("old"), version("new", needs="TOKEN"), Log()
    deploy(account, stack, old)
    without_rollback(account, stack)
    error = failed_deploy(account, stack, new)
    assert "STOPPED" in str(error)
    assert serves(old) + set_to(new) in str(error)
    assert stack.serving("aws-stage").digest == old.digest  # type: ignore[union-attr]
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
    monkeypatch.setattr(rollout.Rollout, "_begun", lambda *_: ("", None))
    error = failed_deploy(account, stack, new)
    assert f"does not run {new.digest} after the deploy" in str(error)
    assert serves(old) in str(error)
