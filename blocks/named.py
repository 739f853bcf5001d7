"""Blocks of which only the name is given: any kind of registry, any kind of stack."""

from blocks.contracts import ImageRegistry, Stack
from blocks.loading import load_one_of
from blocks.repository import GitHubRepository

# Slug and class of each kind. A class is imported where a block of it is meant: a run that uses
# no AWS would else load its SDK, a fifth of all that it imports.
REGISTRIES = {
    "samebits-registry": "blocks.registry:Registry",
    "samebits-ecr-registry": "blocks.aws:EcrRegistry",
}
STACKS = {
    "samebits-docker-stack": "blocks.docker_stack:DockerStack",
    "samebits-ecs-stack": "blocks.aws:EcsStack",
    "samebits-cloudformation-stack": "blocks.aws:CloudFormationStack",
}


def registry_of(source: GitHubRepository) -> ImageRegistry:
    """The registry that the images of a repository are published to; raises UnknownBlock."""
    found: ImageRegistry = load_one_of(REGISTRIES, source.registry)
    return found


def stack_called(name: str) -> Stack:
    """The stack of this name, whichever kind it is; raises UnknownBlock."""
    found: Stack = load_one_of(STACKS, name)
    return found
