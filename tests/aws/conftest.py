"""An account whose ECS services really run, for the tests of the ECS stack."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from blocks.aws import EcsStack, following, rollout, verification
from blocks.engine import Engine
from tests.aws.ecs_deploys import Version, place
from tests.aws.stacks import Account, running_account
from tests.conftest import Origin, RunningRegistry
from tests.services import published
from tests.waiting import wait_until


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
    """Stage, whose service has come to rest since it was made."""
    stack = account.stack("stage", timeout_seconds=60)
    ecs = account.cloud.client("ecs")

    def at_rest() -> bool:
        (made,) = ecs.list_service_deployments(**place(stack))["serviceDeployments"]
        return bool(made["status"] == "SUCCESSFUL")

    wait_until(at_rest, 20, "the service's first deployment, of no task")
    return stack
