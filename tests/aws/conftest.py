"""An account whose ECS services really run, for the tests of the ECS stack."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from blocks.aws import EcsStack, following, rollout, verification
from blocks.engine import Engine
from tests.aws.ecs_deploys import Version
from tests.aws.stacks import Account, running_account
from tests.conftest import Origin, RunningRegistry
from tests.services import published


@pytest.fixture
def made(engine: Engine) -> Iterator[ExitStack]:
    """What is removed after the account, whose tasks use it."""
    with ExitStack() as images:
        yield images


@pytest.fixture
def account(
    running_registry: RunningRegistry, name: str, made: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Account]:
    """An account with the example's template."""
    for module in (following, rollout, verification):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.2)
    with running_account(running_registry.block.address, f"{name}-ecs") as running:
        yield running


@pytest.fixture
def version(engine: Engine, account: Account, made: ExitStack, origin: Origin) -> Version:
    """Makes a version of the example that is published in ECR."""
    registry = account.registry()
    return lambda *words, **more: made.enter_context(
        published(engine, registry, origin, *words, name="hello-service", **more)
    )


@pytest.fixture
def stack(account: Account, version: Version) -> EcsStack:
    """Stage."""
    return account.stack("stage", timeout_seconds=60)
