"""The block of a CloudFormation stack, on an account whose services really run."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from botocore.config import Config
from moto.cloudformation.models import CloudFormationBackend

from blocks.aws import CloudFormationStack, connection, stack_update, verification
from blocks.engine import DockerHost
from domain.errors import (
    AwsRefused,
    AwsUnavailable,
    DeployFailed,
    RunEnded,
    SamebitsError,
    StackUnusable,
    Superseded,
)
from domain.image import Serving
from tests.aws.formed import (
    CANCEL,
    NO_REGISTRY,
    ROLE,
    UPDATE,
    Deployed,
    Images,
    absent,
    account_with_role,
    credentials,
    deployed,
    needed,
    published_images,
)
from tests.aws.stacks import Account
from tests.aws.updates import BREAKER, Updates, enter
from tests.conftest import RunningRegistry
from tests.turns import Refused, a_turn, of_a_cancelled_run
from tests.waiting import wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def images(
    docker_host: DockerHost,
    running_registry: RunningRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("formation")
    with published_images(docker_host, running_registry.block, folder) as images:
        yield images


@pytest.fixture(scope="module")
def account(running_registry: RunningRegistry, images: Images, name: str) -> Iterator[Account]:
    with account_with_role(running_registry.block.address, f"{name}-formation") as account:
        yield account


@pytest.fixture(scope="module")
def in_aws(account: Account) -> Iterator[Updates]:
    with Updates(account.agent).in_place() as updates:
        yield updates


@pytest.fixture
def updates(
    in_aws: Updates, account: Account, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Updates]:
    """Updates as AWS does them, seen quickly; what was recorded and refused is forgotten."""
    for module in (stack_update, verification):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(stack_update, "_ROLLBACK_SECONDS", 60)
    monkeypatch.setattr(verification, "SETTLES_SECONDS", 60)
    account.cloud.calls.clear()
    yield in_aws
    in_aws.wait_for_services, in_aws.paused = True, False
    account.cloud.faults.clear()
    account.cloud.faults.enforce_policies()


@pytest.fixture
def stack(account: Account, images: Images, updates: Updates) -> Iterator[Deployed]:
    with deployed(account, images.one) as stack:
        yield stack


@pytest.fixture(scope="module")
def steady(account: Account, images: Images, in_aws: Updates) -> Iterator[Deployed]:
    """A stack that no test changes."""
    with deployed(account, images.one) as stack:
        yield stack


@pytest.fixture
def unprepared(updates: Updates, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto makes every change set; these are failed by hand, as AWS fails one."""
    create = CloudFormationBackend.create_change_set

    def failed(backend: Any, **given: Any) -> Any:
        made = create(backend, **given)
        change_set = backend.change_sets[made[0]]
        change_set.status, change_set.status_reason = "FAILED", "Transform X failed."
        return made

    monkeypatch.setattr(CloudFormationBackend, "create_change_set", failed)


def test_a_deploy_is_a_change_set_of_one_parameter_and_the_tasks_then_run_that_digest(
    stack: Deployed, images: Images
) -> None:
    before = stack.parameters()
    serving = stack.deploy(images.two)
    assert serving == Serving(digest=images.two.digest, sha=images.two.commit.sha)
    assert "version two" in stack.said()
    assert stack.parameters() == before | {"Image": images.two.reference}
    assert before["Count"] == "1"
    assert stack.updates() == 1
    log = "\n".join(stack.log)
    assert f"UPDATE_IN_PROGRESS {stack.name} (AWS::CloudFormation::Stack) User Initiated" in log
    assert f"UPDATE_COMPLETE {stack.name}" in log
    assert "CREATE_COMPLETE" not in log  # of before this update
    calls = [call for call in stack.account.cloud.calls if call.caller == ROLE]
    assert {call.action for call in calls} < set(needed())
    assert stack.account.cloud.calls.actions().count("sts:AssumeRole") == 1


def test_a_run_that_has_ended_before_it_deploys_asks_aws_for_nothing(
    steady: Deployed, images: Images
) -> None:
    turn = of_a_cancelled_run()
    with pytest.raises(RunEnded):
        steady.block().deploy("stage", images.two, NO_REGISTRY, turn, steady.log.append)
    assert steady.account.cloud.calls.actions(ROLE) == []


def test_a_commit_that_has_to_give_way_changes_nothing_and_leaves_no_change_set(
    steady: Deployed, images: Images, updates: Updates
) -> None:
    refused = Refused()
    with pytest.raises(Superseded):
        steady.block().deploy("stage", images.two, NO_REGISTRY, refused.turn, steady.log.append)
    assert refused.seen == [Serving(digest=images.one.digest)]
    assert steady.updates() == 0
    actions = steady.account.cloud.calls.actions(ROLE)
    assert "cloudformation:DeleteChangeSet" in actions
    assert "cloudformation:ExecuteChangeSet" not in actions


def test_an_image_that_runs_already_is_verified_without_an_update(
    steady: Deployed, images: Images, updates: Updates
) -> None:
    steady.log.clear()
    assert steady.deploy(images.one).digest == images.one.digest
    assert steady.log == [f"{steady.name} has this image already: no changes"]
    assert steady.updates() == 0
    actions = steady.account.cloud.calls.actions(ROLE)
    assert "cloudformation:DeleteChangeSet" in actions
    assert "ecs:DescribeTasks" in actions


def test_no_changes_are_not_believed_where_the_parameter_is_another_image(
    stack: Deployed, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_update.CloudFormation, "proposed", lambda *_: None)
    with pytest.raises(DeployFailed, match="sees nothing to change") as error:
        stack.deploy(images.two)
    assert f"though Image is {images.one.reference}" in error.value.what
    assert "LanguageExtensions" in error.value.why
    assert f"{images.one.digest} serves now." in error.value.hint


def test_a_call_that_is_repeated_because_its_answer_was_lost_says_that_it_is_the_same(
    stack: Deployed, images: Images
) -> None:
    given = list[dict[str, Any]]()

    def note(params: dict[str, Any], **_: Any) -> None:
        given.append(params)

    client = stack.account.cloud.client("cloudformation", config=Config())
    client.meta.events.register("before-parameter-build.cloudformation", note)
    formation = stack_update.CloudFormation(client, stack.name)
    formation.execute(formation.propose("Image", images.two.reference))
    made, executed = (one for one in given if "ChangeSetName" in one)
    assert made["ClientToken"] == made["ChangeSetName"]
    assert executed["ClientRequestToken"]


def test_an_earlier_digest_is_put_back(stack: Deployed, images: Images) -> None:
    stack.deploy(images.two)
    assert stack.deploy(images.one).digest == images.one.digest
    assert "version one" in stack.said()
    assert stack.updates() == 2


def test_what_serves_is_what_the_service_runs_or_without_it_the_parameter(
    steady: Deployed, images: Images, updates: Updates
) -> None:
    assert steady.block().serving("stage") == Serving(digest=images.one.digest)
    assert steady.block(service_output="").serving("stage") == Serving(digest=images.one.digest)
    assert steady.block(service_output="", parameter="Name").serving("stage") is None


def test_nothing_serves_where_the_service_runs_no_task_and_that_is_a_failed_deploy(
    stack: Deployed, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "SETTLES_SECONDS", 0.2)
    ecs = stack.account.cloud.client("ecs")
    ecs.update_service(cluster="samebits", service=stack.name, desiredCount=0)
    wait_until(lambda: stack.block().serving("stage") is None, 60)
    with pytest.raises(DeployFailed, match=r"0 of its 1 tasks run.* Nothing serves now"):
        stack.deploy(images.one)


def test_without_a_service_nothing_is_verified_and_the_log_says_so(
    stack: Deployed, images: Images, updates: Updates
) -> None:
    updates.wait_for_services = False
    stack.account.agent.hold(stack.name)
    assert stack.deploy(images.two, service_output="").digest == images.two.digest
    assert "was not verified" in stack.log[-1]
    assert not [a for a in stack.account.cloud.calls.actions(ROLE) if a.startswith("ecs:")]


def test_an_update_that_is_complete_while_the_old_image_runs_is_a_failed_deploy(
    stack: Deployed, images: Images, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates.wait_for_services = False
    monkeypatch.setattr(verification, "SETTLES_SECONDS", 0.5)
    stack.account.agent.hold(stack.name)
    with pytest.raises(DeployFailed, match=f"does not run {images.two.digest}") as error:
        stack.deploy(images.two)
    assert stack.moto().status == "UPDATE_COMPLETE"
    assert images.one.digest in error.value.why  # a task still runs it
    assert "version one" in stack.said()


def test_a_service_that_is_set_to_another_image_by_hand_is_a_failed_deploy(
    stack: Deployed, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "SETTLES_SECONDS", 0.2)
    stack.account.agent.hold(stack.name)  # the old task stays
    web = {"name": "web", "image": images.two.reference, "memory": 64}
    ecs = stack.account.cloud.client("ecs")
    other = ecs.register_task_definition(family=stack.name, containerDefinitions=[web])
    revision = other["taskDefinition"]["taskDefinitionArn"]
    ecs.update_service(cluster="samebits", service=stack.name, taskDefinition=revision)
    with pytest.raises(DeployFailed, match=r"Its task definition is .*, with ") as error:
        stack.deploy(images.one)
    assert images.two.digest in error.value.why


def test_tasks_that_have_yet_to_start_are_waited_for(stack: Deployed, images: Images) -> None:
    ecs = stack.account.cloud.client("ecs")

    def more(_: str) -> None:
        ecs.update_service(cluster="samebits", service=stack.name, desiredCount=2)

    stack.block().deploy("stage", images.one, NO_REGISTRY, a_turn(), more)
    (service,) = ecs.describe_services(cluster="samebits", services=[stack.name])["services"]
    assert service["runningCount"] == 2


def test_the_reason_is_the_first_event_that_failed_and_what_serves_is_named(
    stack: Deployed, images: Images
) -> None:
    broken = absent()
    with pytest.raises(DeployFailed, match="it is UPDATE_ROLLBACK_COMPLETE") as error:
        stack.deploy(broken)
    assert f"did not take {broken.digest}" in error.value.what
    assert error.value.why == f"Service: {BREAKER}"
    assert [line.split()[1] for line in error.value.log] == ["Service", "Other"]
    assert f"{images.one.digest} serves now." in str(error.value)
    assert any("Resource update cancelled" in line for line in stack.log)
    assert "version one" in stack.said()
    assert stack.deploy(images.two).digest == images.two.digest  # from UPDATE_ROLLBACK_COMPLETE


def test_what_cannot_be_read_does_not_hide_why_a_deploy_failed(
    steady: Deployed, unprepared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object) -> str:
        raise AwsRefused("The role may not do this.")

    monkeypatch.setattr("blocks.aws.cloudformation_stack.serves_now", denied)
    with pytest.raises(DeployFailed, match="Transform X failed") as error:
        steady.deploy(absent())
    assert "could not be read: The role may not do this." in error.value.hint


def test_an_update_that_takes_too_long_is_cancelled_and_fails(
    stack: Deployed, images: Images
) -> None:
    stack.account.agent.hold(stack.name)
    with pytest.raises(DeployFailed, match="UPDATE_ROLLBACK_COMPLETE") as error:
        stack.deploy(images.two, timeout_seconds=1)
    assert "It was not done after 1 s, and was stopped." in error.value.why
    assert f"{images.one.digest} serves now." in str(error.value)
    assert stack.account.cloud.calls.actions(ROLE).count(CANCEL) == 1
    assert "version one" in stack.said()
    assert stack.parameters()["Image"] == images.one.reference


def test_an_update_that_may_not_be_cancelled_fails_with_the_missing_action(
    stack: Deployed, images: Images
) -> None:
    stack.account.cloud.faults.deny(CANCEL)
    stack.account.agent.hold(stack.name)
    with pytest.raises(DeployFailed, match="it is UPDATE_IN_PROGRESS") as error:
        stack.deploy(images.two, timeout_seconds=1)
    assert f"could not be stopped: The role may not do this: {CANCEL}" in error.value.why
    serving, wanted = images.one.digest, images.two.digest
    assert f"{serving} serves now; the service is set to {wanted}" in str(error.value)


def test_an_update_that_ends_well_in_the_moment_when_it_is_to_be_cancelled_is_a_deploy(
    stack: Deployed, images: Images, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates.paused = True
    cancel = stack_update.CloudFormation.cancel

    def late(formation: Any) -> None:
        updates.paused = False
        wait_until(lambda: formation.status == "UPDATE_COMPLETE", 60)
        cancel(formation)

    monkeypatch.setattr(stack_update.CloudFormation, "cancel", late)
    assert stack.deploy(images.two, timeout_seconds=1).digest == images.two.digest
    assert CANCEL in stack.account.cloud.calls.actions(ROLE)


@pytest.mark.parametrize(
    ("stands", "ends"),
    [
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_COMPLETE"),
        ("UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"),
    ],
)
def test_an_update_that_is_past_its_work_at_the_time_limit_is_followed_and_not_cancelled(
    steady: Deployed, images: Images, updates: Updates, stands: str, ends: str
) -> None:
    formation = stack_update.CloudFormation(steady.client, steady.name)
    lines, failed = list[str](), ends != "UPDATE_COMPLETE"

    def end(line: str) -> None:
        lines.append(line)
        enter(steady.moto(), ends)

    late = stack_update.StackUpdate(
        formation, "Image", images.one, a_turn(), end, timeout_seconds=0
    )
    late.wait_until_idle()
    formation.events(late._known)
    updates.paused = True
    enter(steady.moto(), stands)
    try:
        with pytest.raises(DeployFailed, match=ends) if failed else nullcontext():
            late._follow_to_success()
    finally:
        steady.moto().status = "CREATE_COMPLETE"
    assert CANCEL not in steady.account.cloud.calls.actions()
    assert stands in lines[0]


def test_a_run_that_was_killed_after_the_update_began_finds_it_and_begins_no_other(
    stack: Deployed, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The process ends here."""

    def killed(*_: object) -> None:
        raise Killed

    stack.account.agent.hold(stack.name)
    with monkeypatch.context() as dying:
        dying.setattr(stack_update.StackUpdate, "_follow_to_success", killed)
        with pytest.raises(Killed):
            stack.deploy(images.two)
    assert stack.moto().status == "UPDATE_IN_PROGRESS"

    def go_on(line: str) -> None:
        stack.log.append(line)
        stack.account.agent.release(stack.name)

    serving = stack.block().deploy("stage", images.two, NO_REGISTRY, a_turn(), go_on)
    assert serving.digest == images.two.digest
    assert f"{stack.name} is UPDATE_IN_PROGRESS; waiting for it" in stack.log
    assert stack.log[-1] == f"{stack.name} has this image already: no changes"
    assert stack.updates() == 1
    assert stack.deployments() == ["SUCCESSFUL", "SUCCESSFUL"]


def test_a_stack_that_stays_in_progress_is_left_alone(steady: Deployed, updates: Updates) -> None:
    steady.moto().status = "UPDATE_ROLLBACK_IN_PROGRESS"
    try:
        with pytest.raises(DeployFailed, match="still UPDATE_ROLLBACK_IN_PROGRESS") as error:
            steady.deploy(absent(), timeout_seconds=1)
    finally:
        steady.moto().status = "CREATE_COMPLETE"
    assert "It was waited for 1 s. Nothing was changed." in str(error.value)
    assert steady.updates() == 0


@pytest.mark.parametrize(
    "status",
    ["REVIEW_IN_PROGRESS", "CREATE_FAILED", "UPDATE_ROLLBACK_FAILED", "ROLLBACK_COMPLETE"],
)
def test_a_stack_that_cannot_be_updated_is_not_touched(
    steady: Deployed, updates: Updates, status: str
) -> None:
    steady.log.clear()
    steady.moto().status = status
    try:
        with pytest.raises(StackUnusable, match=f"is {status}, and cannot be updated"):
            steady.deploy(absent())
    finally:
        steady.moto().status = "CREATE_COMPLETE"
    assert steady.log == []
    assert steady.account.cloud.calls.actions(ROLE) == ["cloudformation:DescribeStacks"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stack": "absent"}, "CloudFormation has no stack 'absent'"),
        ({"parameter": "Imago"}, "no parameter 'Imago'. It has: Count, Image, Name."),
        ({"service_output": "Absent"}, "no output 'Absent'.* Its outputs: Arn, Called."),
        ({"service_output": "Called"}, "no output 'Called' that is the ARN of a service"),
        ({"container": "app"}, "no container 'app'. It has: web."),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_changed(
    steady: Deployed, updates: Updates, fields: dict[str, str], said: str
) -> None:
    with pytest.raises(StackUnusable, match=said):
        steady.deploy(absent(), **fields)
    assert "cloudformation:CreateChangeSet" not in steady.account.cloud.calls.actions()


def test_a_change_set_that_cannot_be_made_is_a_failed_deploy_and_is_removed(
    steady: Deployed, unprepared: None
) -> None:
    with pytest.raises(DeployFailed, match=r"could not prepare the update.* Transform X failed."):
        steady.deploy(absent())
    found = steady.client.list_change_sets(StackName=steady.name)["Summaries"]
    assert [one["Status"] for one in found if one["Status"] == "FAILED"] == []
    assert steady.updates() == 0


def test_which_of_several_containers_is_meant_must_be_said(
    account: Account, images: Images, updates: Updates
) -> None:
    with deployed(account, images.one, sidecar=images.two.reference) as stack:
        with pytest.raises(StackUnusable, match="2 containers: side, web"):
            stack.deploy(images.two)
        assert stack.updates() == 0
        assert stack.block(container="side").serving("stage") == Serving(digest=images.two.digest)
        assert stack.deploy(images.one, container="web").digest == images.one.digest


def test_the_examples_template_is_deployed_by_its_parameter_and_its_role_is_the_documented_one(
    account: Account, images: Images, updates: Updates
) -> None:
    block = CloudFormationStack(
        credentials=credentials(account),
        stack="samebits",
        parameter="StageImage",
        service_output="StageService",
    )
    assert block.serving("stage") is None
    serving = block.deploy("stage", images.two, NO_REGISTRY, a_turn(), [].append)
    assert serving.digest == images.two.digest
    assert "version two" in httpx.get(account.address("stage"), timeout=5).text


def test_a_throttled_call_is_tried_again(
    steady: Deployed, images: Images, updates: Updates
) -> None:
    # The last call: after a refusal each further one waits, too.
    steady.account.cloud.faults.throttle("cloudformation:DeleteChangeSet")
    assert steady.deploy(images.one, service_output="").digest == images.one.digest
    calls = steady.account.cloud.calls.actions(ROLE)
    assert calls.count("cloudformation:DeleteChangeSet") == 2


def test_a_stack_that_throttles_on_and_on_can_be_retried(
    steady: Deployed, images: Images, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    retries = {"mode": "adaptive", "total_max_attempts": 2}
    monkeypatch.setattr(connection, "_PATIENT", Config(retries=retries))
    steady.account.cloud.faults.throttle("cloudformation:CreateChangeSet", 1000)
    with pytest.raises(AwsUnavailable, match="Throttling: Rate exceeded") as error:
        steady.deploy(images.one)
    assert error.value.retryable
    calls = steady.account.cloud.calls.actions(ROLE)
    assert calls.count("cloudformation:CreateChangeSet") == 2


@pytest.mark.parametrize("action", sorted(set(needed()) - {UPDATE, CANCEL}))
def test_each_action_that_is_missing_is_named(
    steady: Deployed, images: Images, updates: Updates, action: str
) -> None:
    steady.account.cloud.faults.deny(action)
    with pytest.raises(SamebitsError, match=f"The role may not do this: {action} ") as error:
        steady.deploy(images.one)
    assert isinstance(error.value, AwsRefused)
    assert "docs/aws.md" in error.value.hint
    assert steady.updates() == 0


def test_an_update_that_the_role_may_not_begin_changes_nothing(
    steady: Deployed, updates: Updates
) -> None:
    steady.account.cloud.faults.deny(UPDATE)
    with pytest.raises(AwsRefused, match=f"The role may not do this: {UPDATE} "):
        steady.deploy(absent())
    assert steady.moto().status == "CREATE_COMPLETE"
