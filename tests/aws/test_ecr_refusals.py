"""What ECR refuses or does not take, as one error that says what to do."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.config import Config
from prefect_aws import AwsCredentials

from blocks.aws import EcrRegistry, connection
from blocks.engine import Engine
from deployments import example
from deployments.provisioning import PROJECT
from domain.errors import (
    AwsRefused,
    AwsUnavailable,
    RegistryRefused,
    RegistryUnavailable,
    TokenExpired,
)
from tests.aws.publishing import Publishing, publishing
from tests.aws.stacks import Account, running_account
from tests.conftest import RunningRegistry

pytestmark = pytest.mark.engine

_ROW = re.compile(r"^\| `(\w+:\w+)` \|", re.MULTILINE)


def documented(role: str) -> list[str]:
    """The actions of a role, by its table in docs/aws.md."""
    text = Path(PROJECT, "docs", "aws.md").read_text()
    return _ROW.findall(text.partition(f"### Role `{role}`")[2].partition("\n### ")[0])


@pytest.fixture(scope="module")
def running(running_registry: RunningRegistry, name: str) -> Iterator[Account]:
    with running_account(running_registry.block.address, f"{name}-ecr") as account:
        yield account


@pytest.fixture
def account(running: Account) -> Account:
    """The account with its policies enforced, and nothing else refused."""
    running.cloud.faults.clear()
    running.cloud.faults.enforce_policies()
    running.cloud.calls.clear()
    return running


@pytest.fixture
def images(engine: Engine) -> Iterator[Publishing]:
    with publishing(engine) as them:
        yield them


def tries(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let each call be tried so many times at most."""
    retries = {"mode": "adaptive", "total_max_attempts": most}
    monkeypatch.setattr(connection, "_PATIENT", Config(retries=retries))


def use_all(registry: EcrRegistry, images: Publishing, engine: Engine) -> None:
    """Do everything with an image that a pipeline does."""
    published = images.publish(registry, images.image())
    images.forget(published)
    engine.pull(published.reference, registry.auth())
    registry.admit(published, lambda _: None)
    registry.mark_deployed(published, "stage")
    registry.findings(published)


def test_the_documented_actions_are_all_that_is_needed_and_all_are(
    account: Account, images: Publishing, engine: Engine
) -> None:
    use_all(account.registry(), images, engine)
    role = account.outputs["PublishRoleArn"].rpartition("/")[2]
    assert set(account.cloud.calls.actions(role)) == set(documented("publish"))


@pytest.mark.parametrize("action", documented("publish"))
def test_each_action_that_the_role_lacks_is_named_with_what_to_do(
    account: Account, images: Publishing, engine: Engine, action: str
) -> None:
    account.cloud.faults.deny(action)
    with pytest.raises((AwsRefused, RegistryRefused)) as error:
        use_all(account.registry(), images, engine)
    assert action in error.value.what + error.value.hint
    assert "docs/aws.md" in error.value.hint
    assert not error.value.retryable
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("action", ["ecr:PutImage", "ecr:BatchGetImage"])
def test_an_action_that_only_the_tag_of_a_stack_lacks_is_named(
    account: Account, images: Publishing, action: str
) -> None:
    registry = account.registry()
    published = images.publish(registry, images.image())
    account.cloud.faults.deny(action)
    with pytest.raises(AwsRefused, match=f"may not do this: {action} "):
        registry.mark_deployed(published, "stage")


def test_another_repository_than_the_roles_own_is_refused_by_name(account: Account) -> None:
    other = f"{account.cloud.registry_host}/other"
    with pytest.raises(AwsRefused, match="repository/other because no identity-based") as error:
        account.registry().manifest(other, 40 * "0")
    assert "may not do this: ecr:BatchGetImage (while asking ECR about other)" in error.value.what


def test_a_repository_of_another_account_that_refuses_is_named(account: Account) -> None:
    account.cloud.faults.deny("ecr:DescribeRepositories")
    registry = account.registry(account_id="999999999999", namespace="team")
    with pytest.raises(AwsRefused) as error:
        registry.repository("hello")
    assert error.value.what == (
        "The role may not do this: ecr:DescribeRepositories "
        "(while asking ECR about team/hello in account 999999999999)."
    )


def test_a_token_that_expires_in_mid_push_is_worth_a_second_try_with_a_new_one(
    account: Account, images: Publishing
) -> None:
    image = images.image()
    account.cloud.faults.expire_tokens_after("ecr:UploadLayerPart")
    with pytest.raises(TokenExpired, match="tried again with a new login") as error:
        images.publish(account.registry(), image)
    assert error.value.retryable
    assert images.publish(account.registry(), image).image_id == image.image_id


def test_an_api_that_is_throttled_for_a_while_is_asked_again(
    account: Account, images: Publishing
) -> None:
    account.cloud.faults.throttle("ecr:DescribeRepositories", 2)
    account.cloud.faults.throttle("ecr:GetAuthorizationToken")
    account.cloud.faults.fail("ecr:BatchGetImage", 503)
    images.publish(account.registry(), images.image())


def test_an_api_that_is_throttled_for_ever_is_asked_a_few_times(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 < connection._PATIENT.retries["total_max_attempts"] < 10
    tries(monkeypatch, 3)
    account.cloud.faults.throttle("ecr:GetAuthorizationToken", 100)
    with pytest.raises(AwsUnavailable, match="ThrottlingException: Rate exceeded") as error:
        account.registry().auth()
    assert error.value.retryable
    assert account.cloud.calls.actions().count("ecr:GetAuthorizationToken") == 3


@pytest.mark.parametrize(
    ("fault", "action"),
    [
        ("throttle", "ecr:InitiateLayerUpload"),
        ("throttle", "ecr:PutImage"),
        ("fail", "ecr:PutImage"),  # the engine itself tries an upload again that ended in a 500
    ],
)
def test_a_registry_that_does_not_take_a_push_now_is_worth_a_second_try(
    account: Account, images: Publishing, fault: str, action: str
) -> None:
    image = images.image()
    getattr(account.cloud.faults, fault)(action)
    with pytest.raises(RegistryUnavailable) as error:
        images.publish(account.registry(), image)
    assert error.value.retryable
    images.publish(account.registry(), image)


def test_a_role_that_cannot_be_assumed_is_named(account: Account) -> None:
    arn = f"arn:aws:iam::{account.cloud.account}:role/nobody"
    credentials = account.credentials("publish").model_copy(update={"assume_role_arn": arn})
    with pytest.raises(
        AwsRefused, match=r"role for asking ECR about .* could not be assumed"
    ) as it:
        EcrRegistry(credentials=credentials).repository(example.NAME)
    assert arn in it.value.why
    assert "assume_role_arn" in it.value.hint
    assert "trust policy" in it.value.hint


@pytest.mark.parametrize("role", [None, "arn:aws:iam::123456789012:role/samebits-publish"])
@pytest.mark.parametrize("region", ["us-nowhere-9", "moon"])
def test_a_region_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, region: str, role: str | None
) -> None:
    tries(monkeypatch, 1)
    for name in ("AWS_ENDPOINT_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    credentials = AwsCredentials(
        region_name=region,
        aws_access_key_id="AKIAWORKER0000000000",
        aws_secret_access_key="secret",
        assume_role_arn=role,
    )
    with pytest.raises(AwsRefused, match=f"no AWS region '{region}'") as error:
        EcrRegistry(credentials=credentials).auth()
    assert "region_name" in error.value.hint


def test_credentials_without_a_region_are_refused(account: Account) -> None:
    credentials = account.credentials("publish").model_copy(update={"region_name": None})
    with pytest.raises(AwsRefused, match="credentials name no region"):
        EcrRegistry(credentials=credentials).auth()
