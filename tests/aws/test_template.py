"""The CloudFormation template: against cfn-lint, against moto, and against its documentation."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from cfnlint import decode
from cfnlint.api import lint_file
from moto import mock_aws
from prefect.blocks.core import Block

from blocks.aws.cloudformation_stack import CloudFormationStack
from blocks.aws.ecr import EcrRegistry
from blocks.aws.ecs_stack import EcsStack

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "aws" / "template.yaml"
PAGE = ROOT / "docs" / "aws.md"
REGION = "eu-central-1"
ACCOUNT = "123456789012"  # the one that moto plays
WORKER = f"arn:aws:iam::{ACCOUNT}:role/samebits-worker"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/hello-service@sha256:{'a' * 64}"
ROLES = {
    "PublishRole": "Role `publish`",
    "StageRole": "Roles `stage` and `prod`",
    "ProdRole": "Roles `stage` and `prod`",
}
"""The roles that the workers assume, and the headings of their tables in the page"""
# What AWS lets nobody grant on one resource; `ecs:ListTasks` is held to the cluster by a condition.
ON_EVERYTHING = {"ecr:GetAuthorizationToken", "ecs:DescribeTaskDefinition", "ecs:ListTasks"}


class Made:
    """A stack that moto made of the template."""

    def __init__(self, name: str, **parameters: str) -> None:
        self.name = name
        cloudformation = boto3.client("cloudformation", REGION)
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=TEMPLATE.read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in (network() | {"WorkerPrincipal": WORKER} | parameters).items()
            ],
        )
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        self.status = stack["StackStatus"]
        self.outputs = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
        found = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        self.ids = {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in found}

    def policy(self, resource: str) -> list[dict[str, Any]]:
        """The statements of a role's one policy."""
        iam, role = boto3.client("iam", REGION), self.ids[resource]
        (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
        assert not iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        # moto keeps what a template gives as Python would print it, which happens to be YAML.
        statements: list[dict[str, Any]] = yaml.safe_load(document)["Statement"]
        return statements

    def trust(self, resource: str) -> list[dict[str, Any]]:
        """The statements on who may assume a role."""
        role = boto3.client("iam", REGION).get_role(RoleName=self.ids[resource])["Role"]
        statements: list[dict[str, Any]] = role["AssumeRolePolicyDocument"]["Statement"]
        return statements

    def services(self) -> list[dict[str, Any]]:
        """Stage's service and prod's, in this order."""
        found: list[dict[str, Any]] = boto3.client("ecs", REGION).describe_services(
            cluster=self.outputs["ClusterName"],
            services=[self.outputs["StageServiceName"], self.outputs["ProdServiceName"]],
        )["services"]
        return found

    def container(self, task_definition: str) -> dict[str, Any]:
        """The one container of a task definition."""
        ecs = boto3.client("ecs", REGION)
        described = ecs.describe_task_definition(taskDefinition=task_definition)["taskDefinition"]
        (container,) = described["containerDefinitions"]
        return dict(container)


def network() -> dict[str, str]:
    """The default network, as parameters."""
    ec2 = boto3.client("ec2", REGION)
    subnets = ec2.describe_subnets()["Subnets"]
    return {
        "VpcId": ec2.describe_vpcs()["Vpcs"][0]["VpcId"],
        "SubnetIds": ",".join(subnet["SubnetId"] for subnet in subnets),
    }


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    with mock_aws():
        yield Made("samebits")


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    content, mistakes = decode.decode(str(TEMPLATE))
    assert mistakes == []
    return dict(content)


def actions(statements: list[dict[str, Any]]) -> list[str]:
    return [action for statement in statements for action in as_list(statement["Action"])]


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def documented(heading: str) -> list[str]:
    """What the table under a heading of the page is about: its first column."""
    _, found, below = PAGE.read_text().partition(f"\n### {heading}\n")
    assert found, heading
    section = re.split(r"\n##+ ", below)[0]
    return re.findall(r"^\| `([\w:]+)` \|", section, re.MULTILINE)


def test_cfn_lint_finds_nothing_not_even_to_inform_of() -> None:
    assert [str(match) for match in lint_file(TEMPLATE, {"include_checks": ["I"]})] == []


def test_cloudformation_makes_all_of_it(made: Made, template: dict[str, Any]) -> None:
    assert made.status == "CREATE_COMPLETE"
    assert set(made.ids) == set(template["Resources"])
    assert made.outputs["RepositoryUri"].endswith("/hello-service")


def test_a_tag_is_never_moved_and_every_image_is_scanned(
    made: Made, template: dict[str, Any]
) -> None:
    """moto leaves out the scan on push that a template asks for: it is read in the template."""
    ecr = boto3.client("ecr", REGION)
    (repository,) = ecr.describe_repositories(repositoryNames=["hello-service"])["repositories"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    wanted = template["Resources"]["Repository"]
    assert wanted["Properties"]["ImageScanningConfiguration"] == {"ScanOnPush": True}
    assert wanted["DeletionPolicy"] == "RetainExceptOnCreate"
    assert wanted["UpdateReplacePolicy"] == "Retain"


def test_what_was_deployed_is_kept_by_count_and_only_the_rest_by_age(
    made: Made, template: dict[str, Any]
) -> None:
    """moto leaves out a template's lifecycle policy, but checks one that is put by itself."""
    text = template["Resources"]["Repository"]["Properties"]["LifecyclePolicy"]
    text = text["LifecyclePolicyText"]["Fn::Sub"]
    for stack in ("StageStack", "ProdStack"):
        text = text.replace(f"${{{stack}}}", template["Parameters"][stack]["Default"])
    boto3.client("ecr", REGION).put_lifecycle_policy(
        repositoryName="hello-service", lifecyclePolicyText=text
    )
    rules = sorted(json.loads(text)["rules"], key=lambda rule: rule["rulePriority"])
    assert [rule["selection"] for rule in rules] == [
        {
            "tagStatus": "tagged",
            "tagPatternList": [pattern],
            "countType": "imageCountMoreThan",
            "countNumber": 100,
        }
        for pattern in ("aws-prod-*", "aws-stage-*")
    ] + [
        {
            "tagStatus": "any",
            "countType": "sinceImagePushed",
            "countUnit": "days",
            "countNumber": 90,
        }
    ]


@pytest.mark.parametrize("role", ROLES)
def test_only_the_workers_may_assume_a_role(made: Made, role: str) -> None:
    assert made.trust(role) == [
        {"Effect": "Allow", "Principal": {"AWS": WORKER}, "Action": "sts:AssumeRole"}
    ]


@pytest.mark.usefixtures("made")
def test_the_workers_must_show_the_external_id_if_there_is_one() -> None:
    made = Made("with-id", RepositoryName="with-id", ExternalId="shown")
    for role in ROLES:
        (statement,) = made.trust(role)
        assert statement["Condition"] == {"StringEquals": {"sts:ExternalId": "shown"}}


@pytest.mark.parametrize(("role", "heading"), ROLES.items())
def test_a_role_may_do_exactly_what_is_documented(made: Made, role: str, heading: str) -> None:
    allowed = actions(made.policy(role))
    assert sorted(allowed) == sorted(documented(heading))
    assert len(allowed) == len(set(allowed))


def test_the_policy_of_a_role_for_cloudformation_is_the_documented_one() -> None:
    policy = json.loads((ROOT / "examples" / "aws" / "cloudformation-role.json").read_text())
    table = documented("Role for a CloudFormation stack")
    assert sorted(actions(policy["Statement"])) == sorted(table)
    for statement in policy["Statement"]:
        if statement["Resource"] == "*":
            assert statement["Action"] in ON_EVERYTHING


@pytest.mark.parametrize("role", [*ROLES, "StageExecutionRole", "ProdExecutionRole"])
def test_a_role_may_act_on_everything_only_where_aws_knows_nothing_smaller(
    made: Made, role: str
) -> None:
    for statement in made.policy(role):
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in as_list(statement["Action"]))
        if "*" in as_list(statement["Resource"]):
            assert set(as_list(statement["Action"])) <= ON_EVERYTHING
        if statement["Action"] == "ecs:ListTasks":
            cluster = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/samebits"
            assert statement["Condition"] == {"ArnEquals": {"ecs:cluster": cluster}}


@pytest.mark.parametrize(("mine", "other"), [("stage", "prod"), ("prod", "stage")])
def test_a_stacks_roles_name_nothing_of_the_other_stack(made: Made, mine: str, other: str) -> None:
    for role in (f"{mine.title()}Role", f"{mine.title()}ExecutionRole"):
        named = [r for s in made.policy(role) for r in as_list(s["Resource"])]
        assert any(mine in resource.lower() for resource in named)
        assert not any(other in resource.lower() for resource in named)


@pytest.mark.parametrize("stack", ["Stage", "Prod"])
def test_a_stacks_role_runs_only_revisions_of_its_own_family(made: Made, stack: str) -> None:
    (update,) = [s for s in made.policy(f"{stack}Role") if s["Action"] == "ecs:UpdateService"]
    family = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/samebits-{stack.lower()}:*"
    assert update["Resource"] == made.outputs[f"{stack}Service"]
    assert update["Condition"] == {"ArnLikeIfExists": {"ecs:task-definition": family}}


@pytest.mark.parametrize("stack", ["Stage", "Prod"])
def test_a_stacks_role_passes_only_the_role_that_starts_its_tasks(made: Made, stack: str) -> None:
    (passed,) = [s for s in made.policy(f"{stack}Role") if s["Action"] == "iam:PassRole"]
    execution = f"{stack}ExecutionRole"
    assert passed["Resource"] == f"arn:aws:iam::{ACCOUNT}:role/{made.ids[execution]}"
    assert passed["Condition"] == {
        "StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    }
    (trust,) = made.trust(execution)
    assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}


def test_a_service_without_an_image_wants_no_task(made: Made) -> None:
    assert [service["desiredCount"] for service in made.services()] == [0, 0]
    assert [service["serviceName"] for service in made.services()] == ["stage", "prod"]
    assert [service["serviceArn"] for service in made.services()] == [
        made.outputs["StageService"],
        made.outputs["ProdService"],
    ]


@pytest.mark.usefixtures("made")
def test_a_service_with_an_image_runs_it() -> None:
    made = Made("with-image", RepositoryName="with-image", ProdImage=IMAGE)
    stage, prod = made.services()
    assert (stage["desiredCount"], prod["desiredCount"]) == (0, 1)
    assert made.container(prod["taskDefinition"])["image"] == IMAGE
    assert made.container(stage["taskDefinition"])["image"] != IMAGE


def test_the_one_container_says_whether_it_is_healthy_and_keeps_its_log(made: Made) -> None:
    groups = boto3.client("logs", REGION).describe_log_groups()["logGroups"]
    kept = {group["logGroupName"]: group["retentionInDays"] for group in groups}
    for service in made.services():
        container = made.container(service["taskDefinition"])
        assert container["name"] == "service"
        assert container["healthCheck"]["command"][0] == "CMD-SHELL"
        assert "http://127.0.0.1:8000/health" in container["healthCheck"]["command"][1]
        assert kept[container["logConfiguration"]["options"]["awslogs-group"]] == 30


def test_the_health_check_of_the_example_is_a_command_that_a_shell_understands(
    template: dict[str, Any],
) -> None:
    command = template["Parameters"]["HealthCheckCommand"]["Default"]
    program = re.fullmatch(r'python3 -c "([^"$`\\]+)"', command)
    assert program
    compile(program[1], "health", "exec")


@pytest.mark.parametrize("stack", ["Stage", "Prod"])
def test_a_bad_version_is_rolled_back_and_the_old_one_serves_meanwhile(
    template: dict[str, Any], stack: str
) -> None:
    """moto leaves out how a template's service is deployed: it is read in the template."""
    service = template["Resources"][f"{stack}Service"]["Properties"]
    assert service["LaunchType"] == "FARGATE"
    assert service["DeploymentConfiguration"] == {
        "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
        "MinimumHealthyPercent": 100,
        "MaximumPercent": 200,
    }
    task = template["Resources"][f"{stack}Task"]["Properties"]
    assert task["ExecutionRoleArn"] == {"Fn::GetAtt": [f"{stack}ExecutionRole", "Arn"]}


def test_every_parameter_and_output_stands_in_the_documentation(template: dict[str, Any]) -> None:
    text = PAGE.read_text()
    names = [*template["Parameters"], *template["Outputs"]]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("block", [EcrRegistry, EcsStack, CloudFormationStack])
def test_every_field_of_a_block_stands_in_its_table(block: type[Block]) -> None:
    fields = documented(str(block._block_type_name))
    assert sorted(fields) == sorted(block.model_fields)
