"""The room of ECR against an account whose policies are enforced, with a real engine."""

import base64
import hashlib
from collections.abc import Iterator

import pytest
from prefect_aws.assume_role_parameters import AssumeRoleParameters
from pydantic import SecretStr

from blocks.aws import EcrRegistry
from blocks.engine import Engine
from deployments import example
from domain.errors import AlreadyPublished, ImageVanished, RepositoryMissing, TagTaken
from domain.image import PublishedImage
from tests.aws.publishing import Publishing, publishing
from tests.aws.stacks import EXTERNAL_ID, Account, running_account
from tests.conftest import RunningRegistry

pytestmark = pytest.mark.engine

OTHER = "999999999999"


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


def calls(account: Account, action: str) -> int:
    return account.cloud.calls.actions().count(action)


def put_by_hand(account: Account, image: PublishedImage, tag: str) -> None:
    """Tag a digest as somebody does who is no pipeline."""
    ecr = account.cloud.client("ecr")
    ask = {"repositoryName": example.NAME, "imageIds": [{"imageDigest": image.digest}]}
    [found] = ecr.batch_get_image(**ask)["images"]
    ecr.put_image(repositoryName=example.NAME, imageManifest=found["imageManifest"], imageTag=tag)


def test_the_registry_names_the_digest_of_the_tested_image(
    account: Account, images: Publishing, engine: Engine
) -> None:
    registry, image = account.registry(), images.image()
    published = images.publish(registry, image)
    manifest = registry.manifest(published.repository, published.digest)
    assert manifest == registry.manifest(published.repository, image.commit.sha)
    assert manifest
    assert manifest.config_digest == image.image_id
    assert published.repository == f"{account.cloud.registry_host}/{example.NAME}"
    ask = {"repositoryName": example.NAME, "imageIds": [{"imageDigest": published.digest}]}
    [stored] = account.cloud.client("ecr").batch_get_image(**ask)["images"]
    digest = hashlib.sha256(stored["imageManifest"].encode()).hexdigest()
    assert published.digest == f"sha256:{digest}"

    images.forget(published)
    engine.pull(published.reference, registry.auth())
    assert engine.image_id(published.reference) == image.image_id


def test_what_was_never_pushed_is_none(account: Account) -> None:
    registry = account.registry()
    repository = registry.repository(example.NAME)
    assert registry.manifest(repository, 40 * "0") is None
    assert registry.manifest(repository, f"sha256:{64 * '0'}") is None


def test_the_same_image_is_known_by_its_tag_though_ecr_refuses_a_second_push(
    account: Account, images: Publishing
) -> None:
    registry, image = account.registry(), images.image()
    published = images.publish(registry, image)
    with pytest.raises(TagTaken) as error:
        images.push(registry, image)
    assert not error.value.retryable
    found = registry.manifest(published.repository, image.commit.sha)
    assert found
    assert found.holds(image.image_id)
    assert found.digest == published.digest


def test_another_image_does_not_take_the_tag_of_a_commit(
    account: Account, images: Publishing
) -> None:
    registry, image = account.registry(), images.image()
    published = images.publish(registry, image)
    other = images.image(sha=image.commit.sha)
    with pytest.raises(TagTaken, match=r"already exists .* cannot be overwritten"):
        images.push(registry, other)
    found = registry.manifest(published.repository, image.commit.sha)
    assert found
    assert found.digest == published.digest
    assert not found.holds(other.image_id)


def test_an_absent_repository_is_named_with_its_account_and_region(account: Account) -> None:
    account.cloud.faults.clear()  # a least policy refuses before anybody looks
    registry = account.registry(namespace="team")
    with pytest.raises(RepositoryMissing) as error:
        registry.repository("none")
    assert "no repository 'team/none' in the role's own account, region us-east-1" in str(error)
    assert "examples/aws/template.yaml" in error.value.hint
    assert "\n" not in str(error.value)


def test_a_repository_that_goes_away_before_the_push_is_named(
    account: Account, images: Publishing, engine: Engine
) -> None:
    account.cloud.faults.clear()
    registry, image = account.registry(), images.image()
    gone = f"{account.cloud.registry_host}/gone"
    engine.tag(image.image_id, gone, image.commit.sha)
    with pytest.raises(RepositoryMissing, match="name 'gone' does not exist"):
        engine.push(gone, image.commit.sha, registry.auth())
    with pytest.raises(RepositoryMissing, match="no repository 'gone'"):
        registry.manifest(gone, image.commit.sha)
    published = PublishedImage(**image.model_dump(), repository=gone, digest=f"sha256:{64 * '1'}")
    with pytest.raises(RepositoryMissing, match="no repository 'gone'"):
        registry.findings(published)


def test_a_repository_of_another_account_is_asked_for_there(account: Account) -> None:
    account.cloud.faults.clear()
    name = "shared"
    account.cloud.client("ecr").create_repository(registryId=OTHER, repositoryName=name)
    registry = account.registry(account_id=OTHER)
    repository = registry.repository(name)
    assert repository == f"{OTHER}.dkr.ecr.us-east-1.amazonaws.com/{name}"
    assert registry.manifest(repository, 40 * "0") is None
    with pytest.raises(RepositoryMissing, match=f"repository 'none' in account {OTHER}, region"):
        registry.repository("none")


def test_the_account_of_the_block_is_the_one_that_is_asked(account: Account) -> None:
    account.cloud.faults.clear()
    registry = account.registry(account_id=OTHER)
    for ask in (
        lambda: registry.repository("none"),
        lambda: registry.manifest(f"{account.cloud.registry_host}/none", 40 * "0"),
    ):
        with pytest.raises(RepositoryMissing, match=f"'none' in account {OTHER}, reg") as error:
            ask()
        # What ECR itself says, which knows of the account only what the call tells it.
        assert f"registry with id '{OTHER}'" in str(error.value.__cause__)


def test_each_login_is_a_new_one_and_the_role_is_assumed_once(
    account: Account, images: Publishing
) -> None:
    registry = account.registry()
    images.publish(registry, images.image())
    first, second = registry.auth(), registry.auth()
    assert first["username"] == second["username"] == "AWS"
    assert first["password"] != second["password"]
    assert calls(account, "sts:AssumeRole") == 1
    assert calls(account, "ecr:GetAuthorizationToken") == 3
    account.registry().auth()
    assert calls(account, "sts:AssumeRole") == 2
    mine = {call.caller for call in account.cloud.calls if call.action != "sts:AssumeRole"}
    assert mine == {account.outputs["PublishRoleArn"].rpartition("/")[2]}


def test_a_role_is_assumed_again_before_its_credentials_end(account: Account) -> None:
    credentials = account.credentials("publish")
    # With less than 15 minutes left botocore asks for new ones.
    given = AssumeRoleParameters(ExternalId=EXTERNAL_ID, DurationSeconds=900)
    registry = EcrRegistry(credentials=credentials.model_copy(update={"assume_role_kwargs": given}))
    registry.auth()
    before = calls(account, "sts:AssumeRole")
    registry.auth()
    assert calls(account, "sts:AssumeRole") > before


def test_a_deployed_digest_is_tagged_once_and_without_a_pull(
    account: Account, images: Publishing
) -> None:
    registry, image = account.registry(), images.image()
    published = images.publish(registry, image)
    images.forget(published)
    account.cloud.calls.clear()
    registry.mark_deployed(published, "aws-stage")
    registry.mark_deployed(published, "aws-prod")
    registry.mark_deployed(published, "aws-stage")
    assert set(account.cloud.calls.actions()) == {"ecr:BatchGetImage", "ecr:PutImage"}
    assert calls(account, "ecr:PutImage") == 2
    [known] = account.cloud.client("ecr").describe_images(
        repositoryName=example.NAME, imageIds=[{"imageDigest": published.digest}]
    )["imageDetails"]
    sha = image.commit.sha
    assert set(known["imageTags"]) == {sha, f"aws-stage-{sha}", f"aws-prod-{sha}"}


def test_the_tag_of_a_stack_that_another_digest_has_is_not_moved(
    account: Account, images: Publishing
) -> None:
    registry = account.registry()
    image, other = (images.publish(registry, images.image()) for _ in range(2))
    tag = f"stage-{image.commit.sha}"
    put_by_hand(account, other, tag)
    with pytest.raises(AlreadyPublished) as error:
        registry.mark_deployed(image, "stage")
    assert f"{tag} is {other.digest}, not {image.digest}" in error.value.what
    assert f"stage serves {image.digest}" in error.value.hint
    found = registry.manifest(image.repository, tag)
    assert found
    assert found.digest == other.digest


def test_whoever_tags_at_the_same_time_is_looked_at_afterwards(
    account: Account, images: Publishing
) -> None:
    registry = account.registry()
    image, other = (images.publish(registry, images.image()) for _ in range(2))
    put_by_hand(account, image, "stage-same")
    registry._put_tag(image, "stage-same")
    registry._put_tag(other, "stage-same")
    found = registry.manifest(image.repository, "stage-same")
    assert found
    assert found.digest == image.digest


def test_an_image_that_ecr_has_deleted_is_not_tagged(account: Account, images: Publishing) -> None:
    registry = account.registry()
    image = images.publish(registry, images.image())
    account.cloud.client("ecr").batch_delete_image(
        repositoryName=example.NAME, imageIds=[{"imageDigest": image.digest}]
    )
    assert registry.manifest(image.repository, image.digest) is None
    with pytest.raises(ImageVanished, match=image.digest):
        registry.mark_deployed(image, "stage")


def test_no_secret_shows_in_a_block_or_an_error(
    account: Account, images: Publishing, engine: Engine
) -> None:
    credentials = account.credentials("publish").model_copy(
        update={"aws_secret_access_key": SecretStr("the-secret-key")}
    )
    registry, image = EcrRegistry(credentials=credentials), images.image()
    auth = registry.auth()
    account.cloud.faults.deny("ecr:PutImage")
    repository = registry.repository(example.NAME)
    engine.tag(image.image_id, repository, image.commit.sha)
    with pytest.raises(Exception, match="ecr:PutImage") as error:
        engine.push(repository, image.commit.sha, auth)
    account.cloud.faults.deny("ecr:GetAuthorizationToken")
    with pytest.raises(Exception, match="ecr:GetAuthorizationToken") as refused:
        registry.auth()
    session = registry._client._request_signer._credentials.get_frozen_credentials()
    login = base64.b64encode(f"AWS:{auth['password']}".encode()).decode()
    shown = "".join(
        text(it)
        for it in (registry, credentials, error.value, refused.value, refused.value.__cause__)
        for text in (str, repr)
    )
    for secret in ("the-secret-key", auth["password"], login, session.secret_key, session.token):
        assert secret not in shown


def test_a_path_or_an_account_that_cannot_be_is_refused_by_the_block(account: Account) -> None:
    for wrong in ({"namespace": "Team"}, {"namespace": "a//b"}, {"account_id": "12"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            account.registry(**wrong)
