"""The room of AWS: ECR, ECS and CloudFormation."""

from blocks.aws.cloudformation_stack import CloudFormationStack
from blocks.aws.ecr import EcrRegistry
from blocks.aws.ecs_stack import EcsStack

__all__ = ["CloudFormationStack", "EcrRegistry", "EcsStack"]
