"""A stack of CloudFormation to deploy to: its template, its account, its versions, its block."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from moto.cloudformation.models import Stack, cloudformation_backends
from prefect_aws import AwsCredentials
from prefect_aws.assume_role_parameters import AssumeRoleParameters

from blocks.aws import CloudFormationStack
from blocks.engine import DockerHost, Engine
from blocks.registry import Registry
from deployments.provisioning import PROJECT
from domain.image import PublishedImage, Serving
from tests.aws.stacks import Account, running_account
from tests.conftest import Origin, unique
from tests.services import published
from tests.turns import a_turn
from tests.waiting import wait_until

UPDATE, CANCEL = "cloudformation:ExecuteChangeSet", "cloudformation:CancelUpdateStack"
ROLE = "samebits-formation"
NO_REGISTRY: Any = None
"""AWS pulls by itself"""
# Without it a task would count as running well before it listens.
_HEALTH = {
    "Command": ["CMD-SHELL", "wget -q -O /dev/null http://127.0.0.1:8000/health"],
    "Interval": 5,
    "StartPeriod": 200,
}


def needed() -> list[str]:
    """The actions of the role that the documentation asks for."""
    text = (PROJECT / "docs" / "aws.md").read_text()
    section = text.partition("\n### Role for a CloudFormation stack\n")[2]
    return re.findall(r"^\| `(\w+:\w+)` \|", section, re.MULTILINE)


def template(*, sidecar: str = "") -> str:
    """A service whose image is a parameter; after a second container where its image is given."""
    web = {"Name": "web", "Image": {"Ref": "Image"}, "Memory": 64}
    web |= {"PortMappings": [{"ContainerPort": 8000}], "HealthCheck": _HEALTH}
    code = "import signal; signal.signal(15, lambda *_: exit()); signal.pause()"
    side = {"Name": "side", "Image": sidecar, "Memory": 64, "EntryPoint": ["python3", "-c", code]}
    settings = {"DeploymentCircuitBreaker": {"Enable": True, "Rollback": True}}
    task = {"Family": {"Ref": "Name"}, "ContainerDefinitions": [side, web] if sidecar else [web]}
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
    """Two versions that run."""

    one: PublishedImage
    two: PublishedImage


@contextmanager
def published_images(host: DockerHost, registry: Registry, folder: Path) -> Iterator[Images]:
    """The versions, for as long as the block lasts."""
    with ExitStack() as made:
        made.enter_context(patch.dict("os.environ", SAMEBITS_HOME=str(folder)))
        engine, origin = made.enter_context(Engine(host)), Origin(folder)
        one, two = (
            made.enter_context(published(engine, registry, origin, version))
            for version in ("one", "two")
        )
        yield Images(one, two)


def absent() -> PublishedImage:
    """An image that no registry has."""
    digest = f"sha256:{unique()}{unique()}"
    commit = {"repository": "hello", "branch": "master", "sha": "a" * 40}
    fields = {"commit": commit, "image_id": digest, "repository": "127.0.0.1:1/it"}
    return PublishedImage.model_validate({**fields, "digest": digest})


@contextmanager
def account_with_role(registry: str, name: str) -> Iterator[Account]:
    """An account with the documented role; `registry` and `name` as for `running_account`."""
    with running_account(registry, name) as account:
        iam = account.cloud.client("iam")
        trust = {"Version": "2012-10-17", "Statement": []}
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(trust))
        allowed = {"Effect": "Allow", "Action": needed(), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_role_policy(RoleName=ROLE, PolicyName="deploy", PolicyDocument=policy)
        yield account


def credentials(account: Account) -> AwsCredentials:
    """The block of the documented role's credentials."""
    role = f"arn:aws:iam::{account.cloud.account}:role/{ROLE}"
    fields = {"assume_role_arn": role, "assume_role_kwargs": AssumeRoleParameters()}
    return account.credentials("stage").model_copy(update=fields)


class Deployed:
    """A stack of CloudFormation that runs an image, and its block."""

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
        wait_until(lambda: self.deployments() == ["SUCCESSFUL"], 60, "the stack's first deployment")
        account.cloud.calls.clear()

    def block(self, **fields: Any) -> CloudFormationStack:
        """The stack's block."""
        known = {
            "credentials": credentials(self.account),
            "stack": self.name,
            "parameter": "Image",
            "service_output": "Arn",
        }
        return CloudFormationStack(**(known | fields))

    def deploy(self, image: PublishedImage, **fields: Any) -> Serving:
        """Deploy by the block."""
        return self.block(**fields).deploy("stage", image, NO_REGISTRY, a_turn(), self.log.append)

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
        """The stack's parameters."""
        found = self.client.describe_stacks(StackName=self.name)["Stacks"][0]["Parameters"]
        return {one["ParameterKey"]: one["ParameterValue"] for one in found}

    def said(self) -> str:
        """What the service answers."""
        return httpx.get(self.account.agent.address("samebits", self.name), timeout=5).text

    def updates(self) -> int:
        """How many updates were begun."""
        return self.account.cloud.calls.actions().count(UPDATE)

    def remove(self) -> None:
        """Delete the stack."""
        self.account.agent.release(self.name)
        self.client.delete_stack(StackName=self.name)


@contextmanager
def deployed(account: Account, image: PublishedImage, **text: Any) -> Iterator[Deployed]:
    """A stack that runs an image, for as long as the block lasts."""
    stack = Deployed(account, image, **text)
    try:
        yield stack
    finally:
        stack.remove()
