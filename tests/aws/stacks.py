"""The demo's stacks in AWS: what examples/aws/template.yaml makes, on the stand-in account."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_aws import AwsCredentials
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from prefect_aws.client_parameters import AwsClientParameters

from blocks.aws import EcrRegistry, EcsStack
from blocks.engine import DockerHost
from blocks.prefect_api import prefect_api
from blocks.repository import GitHubRepository
from deployments import example
from deployments.demo_stacks import DemoStacks
from deployments.provisioning import PROJECT, apply_deployments
from deployments.settings import SystemSettings
from tests.aws.agent import EcsAgent
from tests.aws.cloud import Cloud, running_cloud
from tests.waiting import wait_until

EXAMPLES = PROJECT / "examples" / "aws"
EXTERNAL_ID = "an-external-id"
_UPDATE_SECONDS = 60


@dataclass(frozen=True)
class Account:
    """The stand-in account with the example's template in it, as it is after docs/aws.md."""

    cloud: Cloud
    agent: EcsAgent
    outputs: Mapping[str, str]

    def credentials(self, role: str) -> AwsCredentials:
        """The block of a role's credentials: `publish`, `stage` or `prod`."""
        return AwsCredentials(
            region_name=self.cloud.region,
            # The keys that the worker's machine has by its own role.
            aws_access_key_id="AKIAWORKER0000000000",
            aws_secret_access_key="secret",
            assume_role_arn=self.outputs[f"{role.title()}RoleArn"],
            assume_role_kwargs=AssumeRoleParameters(ExternalId=EXTERNAL_ID),
            aws_client_parameters=AwsClientParameters(endpoint_url=self.cloud.url),
        )

    def registry(self, **fields: Any) -> EcrRegistry:
        """The registry's block."""
        return EcrRegistry(credentials=self.credentials("publish"), **fields)

    def stack(self, role: str, **fields: Any) -> EcsStack:
        """The block of `stage` or `prod`."""
        return EcsStack(
            credentials=self.credentials(role),
            cluster=self.outputs["ClusterName"],
            service=self.outputs[f"{role.title()}ServiceName"],
            **fields,
        )

    def address(self, role: str) -> str:
        """Where the service of `stage` or `prod` answers."""
        service = self.outputs[f"{role.title()}ServiceName"]
        return self.agent.address(self.outputs["ClusterName"], service) + "/"


@contextmanager
def running_account(registry: str, name: str) -> Iterator[Account]:
    """An account on a real registry (host:port) and the local engine, whose policies are enforced.

    `name` begins the name of all that is made on the engine, and is the folder in the registry.
    """
    with (
        running_cloud(registry, folder=name) as cloud,
        EcsAgent(DockerHost(), cloud.pull_credentials, name=name, speed=20) as agent,
    ):
        outputs = _created(cloud, (EXAMPLES / "template.yaml").read_text())
        cloud.faults.enforce_policies()
        yield Account(cloud, agent, outputs)


def _created(cloud: Cloud, template: str) -> dict[str, str]:
    """Create the template's stack; returns its outputs."""
    vpc = cloud.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = cloud.client("ec2").describe_subnets()["Subnets"]
    given = {
        "RepositoryName": example.NAME,
        "WorkerPrincipal": f"arn:aws:iam::{cloud.account}:role/samebits-worker",
        "ExternalId": EXTERNAL_ID,
        # It runs twice a second here: the template's own would start Python as often.
        "HealthCheckCommand": "wget -q -O /dev/null http://127.0.0.1:8000/health",
        "VpcId": vpc,
        "SubnetIds": ",".join(subnet["SubnetId"] for subnet in subnets[:2]),
    }
    client = cloud.client("cloudformation")
    client.create_stack(
        StackName="samebits",
        TemplateBody=template,
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
    )
    stack = client.describe_stacks(StackName="samebits")["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    return {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}


@dataclass
class AwsStacks(DemoStacks):
    """Stage and prod of an account."""

    account: Account

    def address(self, stack: str) -> str:
        """By the load balancer of the stand-in."""
        return self.account.address(self._role(stack))

    async def give_environment(self, stack: str, environment: dict[str, str]) -> None:
        """In a revision of the task definition of its own, as an operator would by hand."""
        await asyncio.to_thread(self._give, self._role(stack), environment)

    def _give(self, role: str, environment: dict[str, str]) -> None:
        outputs, ecs = self.account.outputs, self.account.cloud.client("ecs")
        place = {
            "cluster": outputs["ClusterName"],
            "service": outputs[f"{role.title()}ServiceName"],
        }
        service = ecs.describe_services(cluster=place["cluster"], services=[place["service"]])
        current = service["services"][0]["taskDefinition"]
        found = ecs.describe_task_definition(taskDefinition=current)["taskDefinition"]
        wanted = [{"name": name, "value": value} for name, value in environment.items()]
        container = found["containerDefinitions"][0]
        if container.get("environment", []) == wanted:
            return
        container["environment"] = wanted
        shape = ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
        revision = {name: value for name, value in found.items() if name in shape.members}
        made = ecs.register_task_definition(**revision)["taskDefinition"]["taskDefinitionArn"]
        ecs.update_service(**place, taskDefinition=made)

        def done() -> bool:
            latest = ecs.list_service_deployments(**place)["serviceDeployments"][0]
            return bool(latest["status"] == "SUCCESSFUL")

        wait_until(done, _UPDATE_SECONDS, "the operator's update")

    def _role(self, stack: str) -> str:
        return {self.stage: "stage", self.prod: "prod"}[stack]


@contextmanager
def aws_stacks(settings: SystemSettings) -> Iterator[DemoStacks]:
    """Lead the example's branches of a running system to AWS: only blocks, and prefect.yaml."""
    registry = f"127.0.0.1:{settings.registry_port}"
    with running_account(registry, f"{settings.name}-ecs") as account:
        asyncio.run(_lead_there(settings, account))
        yield AwsStacks("aws-stage", "aws-prod", account)


async def _lead_there(settings: SystemSettings, account: Account) -> None:
    async with prefect_api():
        for role in ("publish", "stage", "prod"):
            await account.credentials(role).save(role, overwrite=True)
        await account.registry().save("ecr", overwrite=True)
        await account.stack("stage").save("aws-stage", overwrite=True)
        await account.stack("prod").save("aws-prod", overwrite=True)
        repository: GitHubRepository = await GitHubRepository.aload(example.NAME)
        repository.registry = "ecr"
        await repository.save(example.NAME, overwrite=True)
    await apply_deployments(settings, Path(EXAMPLES, "prefect.yaml"))
