"""The block of a CloudFormation stack, on an account whose services really run."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from botocore.config import Config
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, Event, Stack, cloudformation_backends
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import EmptyResult
from moto.ecs.models import Service
from prefect_aws import AwsCredentials
from prefect_aws.assume_role_parameters import AssumeRoleParameters

from blocks.aws import CloudFormationStack, connection, stack_update, verification
from blocks.engine import DockerHost, Engine
from deployments.provisioning import PROJECT
from domain.errors import AwsRefused, AwsUnavailable, DeployFailed, SamebitsError, StackUnusable
from domain.image import PublishedImage, Serving
from tests.aws.agent import EcsAgent
from tests.aws.stacks import Account, running_account
from tests.conftest import Origin, RunningRegistry, unique
from tests.services import published
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

UPDATE, CANCEL = "cloudformation:ExecuteChangeSet", "cloudformation:CancelUpdateStack"
ROLE = "samebits-formation"
NO_REGISTRY: Any = None
"""AWS pulls by itself"""
BREAKER = "ECS Deployment Circuit Breaker was triggered"


def needed() -> list[str]:
    """The actions of the role that the documentation asks for."""
    _, _, section = (
        (PROJECT / "docs" / "aws.md")
        .read_text()
        .partition("\n### Role for a CloudFormation stack\n")
    )
    return re.findall(r"^\| `(\w+:\w+)` \|", section, re.MULTILINE)


class Updates:
    """Updates of stacks as AWS does them: they wait for their services, and go back.

    moto ends an update in the call that begins it, whatever the services do, forgets the new
    parameters and the template's defaults, refuses what changes nothing one call too early, and has
    no CancelUpdateStack.
    """

    def __init__(self, agent: EcsAgent) -> None:
        self.wait_for_services = True
        """False for moto's own way: an update is complete at once"""
        self.paused = False
        """Whether updates stay in progress"""
        self._agent, self._lock = agent, threading.RLock()
        self._before: dict[str, dict[str, Any]] = {}

    @contextmanager
    def in_place(self) -> Iterator["Updates"]:
        """Have moto's CloudFormation answer so."""
        updates = self
        events, stacks = (
            CloudFormationBackend.describe_stack_events,
            (CloudFormationBackend.describe_stacks),
        )

        def describe_stack_events(backend: Any, name: str) -> Any:
            updates._go_on(backend)
            return events(backend, name)

        def describe_stacks(backend: Any, name: str) -> Any:
            updates._go_on(backend)
            return stacks(backend, name)

        with ExitStack() as patches:
            for kind, name, handler in (
                (CloudFormationBackend, "execute_change_set", updates._execute),
                (CloudFormationBackend, "describe_stack_events", describe_stack_events),
                (CloudFormationBackend, "describe_stacks", describe_stacks),
                (CloudFormationResponse, "cancel_update_stack", updates._cancel),
                (CloudFormationResponse, "_validate_different_update", lambda *_: None),
                (Stack, "has_parameters", _has_parameters),
            ):
                # A bound method would not be given the object that it is called on.
                def called(*words: Any, _handler: Any = handler, **named: Any) -> Any:
                    return _handler(*words, **named)

                patches.enter_context(patch.object(kind, name, called, create=True))
            yield self

    def _execute(self, backend: Any, change_set_name: str, **_: Any) -> None:
        with self._lock:
            change_set = backend.describe_change_set(change_set_name)
            stack = backend.stacks[change_set.stack_id]
            self._before[stack.stack_id] = dict(stack.stack_parameters)
            _enter(stack, "UPDATE_IN_PROGRESS", "User Initiated")
            self._apply(stack, change_set.parameters)

    def _apply(self, stack: Stack, parameters: dict[str, Any]) -> None:
        given = {name: _text(value) for name, value in parameters.items()}
        stack.resource_map.update(stack.template_dict, given)

    def _cancel(self, response: Any) -> EmptyResult:
        backend = response.cloudformation_backend
        stack = backend.get_stack(response._get_param("StackName"))
        with self._lock:
            if stack.status != "UPDATE_IN_PROGRESS":
                raise ValidationError(
                    message="CancelUpdateStack cannot be called from current stack status"
                )
            self._go_back(stack, "User Initiated")
        return EmptyResult()

    def _go_back(self, stack: Stack, reason: str) -> None:
        _enter(stack, "UPDATE_ROLLBACK_IN_PROGRESS", reason)
        for managed in self._services(stack):
            self._agent.release(managed.service.name)  # what was held is the new version
        self._apply(stack, self._before[stack.stack_id])

    def _go_on(self, backend: Any) -> None:
        """See what the services of stacks do that are in progress."""
        with self._lock, self._agent.lock:
            for stack in backend.stacks.values():
                if stack.stack_id in self._before and not self.paused:
                    self._look(stack)

    def _look(self, stack: Stack) -> None:
        services = self._services(stack) if self.wait_for_services else []
        failed = [one for one in services if one.deployments[0].status in FAILED]
        done = all(one.deployments[0].status == "SUCCESSFUL" for one in services)
        if stack.status == "UPDATE_IN_PROGRESS":
            if failed:
                fail(stack, failed[0].service, BREAKER)
                fail(stack, None, "Resource update cancelled")
                self._go_back(stack, "The following resource(s) failed to update: [Service].")
            elif done:
                _enter(stack, "UPDATE_COMPLETE")
        elif stack.status == "UPDATE_ROLLBACK_IN_PROGRESS" and done:
            _enter(stack, "UPDATE_ROLLBACK_COMPLETE")

    def _services(self, stack: Stack) -> list[Any]:
        found = stack.resource_map._parsed_resources.values()
        return [self._agent.services[one.arn] for one in found if isinstance(one, Service)]


FAILED = ("STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED")


def _text(value: Any) -> str:
    """A parameter as it is given; moto keeps some as lists and numbers."""
    return ",".join(value) if isinstance(value, list) else str(value)


def _has_parameters(stack: Stack, others: dict[str, Any]) -> bool:
    now = stack.stack_parameters
    return {k: _text(v) for k, v in now.items()} == {k: _text(v) for k, v in others.items()}


def _enter(stack: Stack, status: str, reason: str | None = None) -> None:
    stack.status = status
    stack._add_stack_event(status, resource_status_reason=reason)


def fail(stack: Stack, service: Service | None, reason: str) -> None:
    """Let a resource of a stack fail."""
    known = ("Service", service.arn, "AWS::ECS::Service") if service else ("Other", "", "AWS::X::Y")
    stack.events.append(
        Event(stack.stack_id, stack.name, *known, "UPDATE_FAILED", reason, None)  # type: ignore[call-arg]
    )


def template(*, sidecar: str = "") -> str:
    """A service whose image is a parameter; with a second container where its image is given."""
    web = {"Name": "web", "Image": {"Ref": "Image"}, "Memory": 64}
    web["PortMappings"] = [{"ContainerPort": 8000}]
    code = "import time; time.sleep(3600)"
    side = {"Name": "side", "Image": sidecar, "Memory": 64, "EntryPoint": ["python3", "-c", code]}
    settings = {"DeploymentCircuitBreaker": {"Enable": True, "Rollback": True}}
    task = {"Family": {"Ref": "Name"}, "ContainerDefinitions": [web, *([side] if sidecar else [])]}
    service = {
        "Cluster": "samebits",
        "ServiceName": {"Ref": "Name"},
        "DesiredCount": {"Ref": "Count"},
        "LaunchType": "FARGATE",
        "TaskDefinition": {"Ref": "Task"},
        "DeploymentConfiguration": settings,
    }
    text = {"Type": "String"}
    return json.dumps(
        {
            "Parameters": {"Image": text, "Name": text, "Count": {"Type": "Number", "Default": 1}},
            "Resources": {
                "Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": task},
                "Service": {"Type": "AWS::ECS::Service", "Properties": service},
            },
            "Outputs": {"Arn": {"Value": {"Ref": "Service"}}, "Called": {"Value": {"Ref": "Name"}}},
        }
    )


@dataclass(frozen=True)
class Images:
    """Two versions that run, and one that exits."""

    one: PublishedImage
    two: PublishedImage
    crashing: PublishedImage


@pytest.fixture(scope="module")
def images(
    docker_host: DockerHost,
    running_registry: RunningRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("formation")
    with ExitStack() as made:
        made.enter_context(pytest.MonkeyPatch.context()).setenv("SAMEBITS_HOME", str(folder))
        engine, origin = made.enter_context(Engine(docker_host)), Origin(folder)
        versions = ("one", ""), ("two", ""), ("three", "TOKEN")
        yield Images(
            *(
                made.enter_context(published(engine, running_registry.block, origin, *version))
                for version in versions
            )
        )


@pytest.fixture(scope="module")
def account(running_registry: RunningRegistry, images: Images, name: str) -> Iterator[Account]:
    """The account with the documented role."""
    with running_account(running_registry.block.address, f"{name}-formation") as running:
        iam = running.cloud.client("iam")
        trust = {"Version": "2012-10-17", "Statement": []}
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(trust))
        allowed = {"Effect": "Allow", "Action": needed(), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_role_policy(RoleName=ROLE, PolicyName="deploy", PolicyDocument=policy)
        yield running


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
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    account.cloud.faults.calls.clear()
    yield in_aws
    in_aws.wait_for_services, in_aws.paused = True, False
    account.cloud.faults.clear()
    account.cloud.faults.enforce_policies()


class Deployed:
    """A stack of CloudFormation that runs the first image, and its block."""

    def __init__(self, account: Account, image: PublishedImage, **text: Any) -> None:
        self.account, self.name = account, f"it-{unique()[:8]}"
        self.client, self.log = account.cloud.client("cloudformation"), list[str]()
        self.client.create_stack(
            StackName=self.name,
            TemplateBody=template(**text),
            Parameters=[
                {"ParameterKey": "Image", "ParameterValue": image.reference},
                {"ParameterKey": "Name", "ParameterValue": self.name},
            ],
        )
        wait_until(lambda: self.deployments() == ["SUCCESSFUL"], 20, "the stack's first deployment")
        account.cloud.faults.calls.clear()

    def block(self, **fields: Any) -> CloudFormationStack:
        known = {
            "credentials": credentials(self.account),
            "stack": self.name,
            "parameter": "Image",
            "service_output": "Arn",
        }
        return CloudFormationStack(**(known | fields))

    def deploy(self, image: PublishedImage, **fields: Any) -> Serving:
        return self.block(**fields).deploy("stage", image, NO_REGISTRY, self.log.append)

    def moto(self) -> Stack:
        """What moto keeps of it."""
        backend = cloudformation_backends[self.account.cloud.account][self.account.cloud.region]
        return next(stack for stack in backend.stacks.values() if stack.name == self.name)

    def deployments(self) -> list[str]:
        """States of the service's deployments, newest first."""
        found = self.account.cloud.client("ecs").list_service_deployments(
            cluster="samebits", service=self.name
        )
        return [one["status"] for one in found["serviceDeployments"]]

    def parameters(self) -> dict[str, str]:
        found = self.client.describe_stacks(StackName=self.name)["Stacks"][0]["Parameters"]
        return {one["ParameterKey"]: one["ParameterValue"] for one in found}

    def said(self) -> str:
        return httpx.get(self.account.agent.address("samebits", self.name), timeout=5).text

    def updates(self) -> int:
        """How many updates were begun."""
        return self.account.cloud.faults.calls.actions().count(UPDATE)

    def remove(self) -> None:
        self.account.agent.release(self.name)
        self.client.delete_stack(StackName=self.name)


def credentials(account: Account) -> AwsCredentials:
    role = f"arn:aws:iam::{account.cloud.account}:role/{ROLE}"
    fields = {"assume_role_arn": role, "assume_role_kwargs": AssumeRoleParameters()}
    return account.credentials("stage").model_copy(update=fields)


@pytest.fixture
def stack(account: Account, images: Images, updates: Updates) -> Iterator[Deployed]:
    made = Deployed(account, images.one)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def steady(account: Account, images: Images, in_aws: Updates) -> Iterator[Deployed]:
    """A stack that no test changes."""
    made = Deployed(account, images.one)
    yield made
    made.remove()


def hurry(monkeypatch: pytest.MonkeyPatch, attempts: int = 2) -> None:
    """Let calls be tried only so many times."""
    retries = {"mode": "adaptive", "total_max_attempts": attempts}
    monkeypatch.setattr(connection, "_PATIENT", Config(retries=retries))


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


def test_nothing_serves_where_the_service_runs_no_task(stack: Deployed) -> None:
    place = {"cluster": "samebits", "service": stack.name}
    ecs = stack.account.cloud.client("ecs")
    ecs.update_service(**place, desiredCount=0)
    wait_until(
        lambda: (
            not ecs.describe_services(cluster="samebits", services=[stack.name])["services"][0][
                "runningCount"
            ]
        ),
        20,
    )
    assert stack.block().serving("stage") is None


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


def test_the_reason_is_the_first_event_that_failed_and_what_serves_is_named(
    stack: Deployed, images: Images
) -> None:
    with pytest.raises(DeployFailed, match="UPDATE_ROLLBACK_COMPLETE") as error:
        stack.deploy(images.crashing)
    assert f"did not take {images.crashing.digest}" in error.value.what
    assert error.value.why == f"Service: {BREAKER}"
    assert [line.split()[1] for line in error.value.log] == ["Service", "Other"]
    assert f"{images.one.digest} serves now." in str(error.value)
    assert any("Resource update cancelled" in line for line in stack.log)
    assert "version one" in stack.said()
    assert stack.deploy(images.two).digest == images.two.digest  # from UPDATE_ROLLBACK_COMPLETE


def test_what_cannot_be_read_does_not_hide_why_a_deploy_failed(
    stack: Deployed, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object) -> str:
        raise AwsRefused("The role may not do this.")

    monkeypatch.setattr("blocks.aws.cloudformation_stack.serves_now", denied)
    with pytest.raises(DeployFailed, match=BREAKER) as error:
        stack.deploy(images.crashing)
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


def test_an_update_that_ends_well_in_the_moment_when_it_is_to_be_cancelled_is_a_deploy(
    stack: Deployed, images: Images, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates.paused = True
    cancel = stack_update.CloudFormation.cancel

    def late(formation: Any) -> None:
        updates.paused = False
        wait_until(lambda: formation.status == "UPDATE_COMPLETE", 20)
        cancel(formation)

    monkeypatch.setattr(stack_update.CloudFormation, "cancel", late)
    assert stack.deploy(images.two, timeout_seconds=1).digest == images.two.digest
    assert CANCEL in stack.account.cloud.calls.actions(ROLE)


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

    serving = stack.block().deploy("stage", images.two, NO_REGISTRY, go_on)
    assert serving.digest == images.two.digest
    assert f"{stack.name} is UPDATE_IN_PROGRESS; waiting for it" in stack.log
    assert stack.log[-1] == f"{stack.name} has this image already: no changes"
    assert stack.updates() == 1
    assert stack.deployments() == ["SUCCESSFUL", "SUCCESSFUL"]


def test_a_stack_that_stays_in_progress_is_left_alone(steady: Deployed, updates: Updates) -> None:
    steady.moto().status = "UPDATE_ROLLBACK_IN_PROGRESS"
    try:
        with pytest.raises(DeployFailed, match="still UPDATE_ROLLBACK_IN_PROGRESS") as error:
            steady.deploy(other(), timeout_seconds=1)
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
            steady.deploy(other())
    finally:
        steady.moto().status = "CREATE_COMPLETE"
    assert steady.log == []
    assert steady.account.cloud.calls.actions(ROLE) == ["cloudformation:DescribeStacks"] * 2


def other() -> PublishedImage:
    """An image that no registry has."""
    digest = f"sha256:{unique()}{unique()}"
    commit = {"repository": "hello", "branch": "master", "sha": "a" * 40}
    fields = {"commit": commit, "image_id": digest, "repository": "127.0.0.1:1/it"}
    return PublishedImage.model_validate({**fields, "digest": digest})


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
        steady.deploy(other(), **fields)
    assert "cloudformation:CreateChangeSet" not in steady.account.cloud.calls.actions()


def test_a_change_set_that_cannot_be_made_is_a_failed_deploy_and_is_removed(
    steady: Deployed, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto makes every change set; this one is failed by hand, as AWS fails one."""
    create = CloudFormationBackend.create_change_set

    def failed(backend: Any, **given: Any) -> Any:
        made = create(backend, **given)
        change_set = backend.change_sets[made[0]]
        change_set.status, change_set.status_reason = "FAILED", "Transform X failed."
        return made

    monkeypatch.setattr(CloudFormationBackend, "create_change_set", failed)
    with pytest.raises(DeployFailed, match=r"could not prepare the update.* Transform X failed."):
        steady.deploy(other())
    found = steady.client.list_change_sets(StackName=steady.name)["Summaries"]
    assert [one["Status"] for one in found if one["Status"] == "FAILED"] == []


def test_which_of_several_containers_is_meant_must_be_said(
    account: Account, images: Images, updates: Updates
) -> None:
    stack = Deployed(account, images.one, sidecar=images.two.reference)
    try:
        with pytest.raises(StackUnusable, match="2 containers: web, side"):
            stack.deploy(images.two)
        assert stack.updates() == 0
        assert stack.deploy(images.two, container="web").digest == images.two.digest
        assert stack.block(container="side").serving("stage") == Serving(digest=images.two.digest)
    finally:
        stack.remove()


def test_the_examples_template_is_deployed_by_its_parameter_and_its_role_is_the_documented_one(
    account: Account, images: Images, updates: Updates
) -> None:
    block = CloudFormationStack(
        credentials=credentials(account),
        stack="samebits",
        parameter="StageImage",
        service_output="StageService",
    )
    log: list[str] = []
    assert block.serving("stage") is None
    for image, version in ((images.one, "one"), (images.two, "two")):
        assert block.deploy("stage", image, NO_REGISTRY, log.append).digest == image.digest
        assert f"version {version}" in httpx.get(account.address("stage"), timeout=5).text


def test_a_throttled_call_is_tried_again(
    steady: Deployed, images: Images, updates: Updates
) -> None:
    steady.account.cloud.faults.throttle("cloudformation:DescribeStacks", 2)
    assert steady.deploy(images.one).digest == images.one.digest


def test_a_stack_that_throttles_on_and_on_can_be_retried(
    steady: Deployed, images: Images, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
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
        steady.deploy(other())
    assert steady.moto().status == "CREATE_COMPLETE"
