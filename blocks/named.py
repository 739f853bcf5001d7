"""Blocks of which only the name is given: any kind of registry, any kind of stack."""

from blocks.aws import CloudFormationStack, EcrRegistry, EcsStack
from blocks.contracts import ImageRegistry, Stack
from blocks.docker_stack import DockerStack
from blocks.loading import load, load_one_of
from blocks.registry import Registry
from blocks.repository import GitHubRepository

REGISTRIES = (Registry, EcrRegistry)
STACKS = (DockerStack, EcsStack, CloudFormationStack)


def registry_of(repository: str) -> ImageRegistry:
    """The registry that the images of a repository are published to; raises UnknownBlock."""
    found: ImageRegistry = load_one_of(REGISTRIES, load(GitHubRepository, repository).registry)
    return found


def stack_called(name: str) -> Stack:
    """The stack of this name, whichever kind it is; raises UnknownBlock."""
    found: Stack = load_one_of(STACKS, name)
    return found
