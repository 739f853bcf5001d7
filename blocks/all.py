"""Every block type.

Importing this module registers the block types: the entry point `prefect.collections` in
pyproject.toml names it, so a Prefect server offers them in its UI without a further command.
"""

from blocks.aws import CloudFormationStack, EcrRegistry, EcsStack
from blocks.channel import SlackChannel
from blocks.docker_stack import DockerStack
from blocks.engine import DockerHost
from blocks.registry import Registry
from blocks.repository import GitHubRepository

__all__ = [
    "CloudFormationStack",
    "DockerHost",
    "DockerStack",
    "EcrRegistry",
    "EcsStack",
    "GitHubRepository",
    "Registry",
    "SlackChannel",
]
