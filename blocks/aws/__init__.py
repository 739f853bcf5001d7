"""The room of AWS: ECR, ECS and CloudFormation."""

from prefect_aws import AwsCredentials

from blocks.aws.cloudformation_stack import CloudFormationStack
from blocks.aws.ecr import EcrRegistry
from blocks.aws.ecs_stack import EcsStack

__all__ = ["AwsCredentials", "CloudFormationStack", "EcrRegistry", "EcsStack"]
