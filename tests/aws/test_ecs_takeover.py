"""A stack on ECS: never two deployments, whoever has begun one, and whoever was killed."""

import json
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from blocks.aws import EcsStack, rollout, verification
from blocks.aws.ecs_service import EcsService
from blocks.aws.following import Follower
from deployments.provisioning import PROJECT
from domain.errors import DeployFailed
from tests.aws.ecs_deploys import (
    Log,
    Version,
    deploy,
    deployments,
    failed_deploy,
    revised,
    said,
    service_of,
    updates,
    without_rollback,
)
from tests.aws.stacks import Account
from tests.turns import a_turn
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

_DEPLOY = """
import json, sys
from prefect_aws import AwsCredentials
from blocks.aws import EcsStack
from domain.image import PublishedImage
from tests.turns import a_turn
given = json.load(sys.stdin)
stack = EcsStack(**given["stack"])
stack.deploy("aws-stage", PublishedImage(**given["image"]), None, a_turn(), print)
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


def with_image(reference: str, definition: dict[str, Any]) -> None:
    definition["containerDefinitions"][0]["image"] = reference


def test_a_deployment_of_another_image_that_is_under_way_is_waited_for(
    account: Account, stack: EcsStack, version: Version
) -> None:
    one, two = version("one"), version("two")
    deploy(account, stack, version("old"))
    account.agent.hold(stack.service)
    quick = stack.model_copy(update={"timeout_seconds": 1})
    revised(account, stack, partial(with_image, one.reference))
    assert "still busy" in str(failed_deploy(account, quick, two))
    assert deployments(account, stack)[0]["status"] == "IN_PROGRESS"
    waiting = []

    def let_it_end(line: str) -> None:
        if "waiting for it" in line:
            waiting.append(deployments(account, stack)[0]["status"])
            account.agent.release(stack.service)

    stack.deploy("aws-stage", two, account.registry(), a_turn(), let_it_end)
    assert waiting == ["IN_PROGRESS"]
    assert [d["status"] for d in deployments(account, stack)] == ["SUCCESSFUL"] * 3
    assert "version two" in said(account)


def test_a_deployment_that_ecs_lists_but_does_not_describe_yet_is_followed(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, describe = list[str](), EcsService.deployment

    def late(service: EcsService, arn: str) -> Any:
        asked.append(arn)
        return describe(service, arn) if len(asked) > 2 else None

    monkeypatch.setattr(EcsService, "deployment", late)
    one = version("one")
    assert deploy(account, stack, one).digest == one.digest
    assert len(asked) > 2


def no_task_runs_before_the_next_deployment(
    account: Account, stack: EcsStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran well after a deployment need not do so for ever."""
    running, before = EcsService.running, len(deployments(account, stack))
    monkeypatch.setattr(verification, "SETTLES_SECONDS", 0.3)
    monkeypatch.setattr(
        EcsService,
        "running",
        lambda service: running(service) if len(deployments(account, stack)) > before else [],
    )


def test_a_service_that_is_set_to_the_image_but_does_not_run_it_is_deployed_to_again(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, log = version("one"), Log()
    deploy(account, stack, one)
    no_task_runs_before_the_next_deployment(account, stack, monkeypatch)
    assert deploy(account, stack, one, log).digest == one.digest
    assert "does not run well, so it is deployed again: 0 of its 1 tasks run." in log
    assert [d["status"] for d in deployments(account, stack)] == ["SUCCESSFUL"] * 2


def test_a_deployment_that_is_made_anew_is_one_however_often_it_is_asked_for(
    account: Account, stack: EcsStack, version: Version
) -> None:
    deploy(account, stack, version("old"))
    without_rollback(account, stack)
    new = version("new", needs="TOKEN")
    failed_deploy(account, stack, new)
    before = len(deployments(account, stack))
    account.cloud.calls.clear()
    account.cloud.faults.throttle("ecs:UpdateService", 1)
    failed_deploy(account, stack, new)
    assert updates(account) == 2
    assert len(deployments(account, stack)) == before + 1


def test_a_revision_that_somebody_has_deregistered_can_be_deployed_again(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = version("one")
    deploy(account, stack, one)
    revision = service_of(account, stack)["taskDefinition"]
    account.cloud.client("ecs").deregister_task_definition(taskDefinition=revision)
    no_task_runs_before_the_next_deployment(account, stack, monkeypatch)
    assert deploy(account, stack, one).digest == one.digest
    assert service_of(account, stack)["taskDefinition"] != revision


class Killed(BaseException):
    """The process ends here."""


def killed(*_: object) -> None:
    raise Killed


def test_the_retry_of_a_first_deploy_that_was_killed_remembers_that_no_task_was_wanted(
    account: Account, stack: EcsStack, version: Version
) -> None:
    crashing, log = version("new", needs="TOKEN"), Log()
    account.agent.hold(stack.service)
    with pytest.MonkeyPatch.context() as dying:
        dying.setattr(rollout.Rollout, "_follow_to_success", killed)
        with pytest.raises(Killed):
            deploy(account, stack, crashing)
    assert service_of(account, stack)["desiredCount"] == 1
    account.agent.release(stack.service)
    with pytest.raises(DeployFailed):
        deploy(account, stack, crashing, log)
    assert "following it" in log
    assert service_of(account, stack)["desiredCount"] == 0


def test_the_time_that_another_deployment_was_waited_for_is_not_taken_from_ones_own(
    account: Account, stack: EcsStack, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, asked = version("one"), version("two"), list[float]()
    follow = Follower.follow

    def noted(follower: Follower, arn: str, seconds: float) -> Any:
        asked.append(seconds)
        account.agent.release(stack.service)
        return follow(follower, arn, seconds)

    deploy(account, stack, version("old"))
    account.agent.hold(stack.service)
    revised(account, stack, partial(with_image, one.reference))
    monkeypatch.setattr(Follower, "follow", noted)
    deploy(account, stack, two)
    waited, own = asked
    assert waited < own == stack.timeout_seconds
