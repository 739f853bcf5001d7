"""What Docker tells of Amazon ECR's refusals, as errors of ours."""

import pytest

from blocks.engine.faults import push_error
from domain.errors import (
    RegistryRefused,
    RegistryUnavailable,
    RepositoryMissing,
    SamebitsError,
    TagTaken,
    TokenExpired,
)

REFERENCE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/hello:1"
DENIED = (
    "denied: User: arn:aws:sts::123456789012:assumed-role/{role}/{session} is not authorized to "
    "perform: ecr:InitiateLayerUpload on resource: arn:aws:ecr:us-east-1:123456789012:repository/"
    "{name} because no identity-based policy allows the ecr:InitiateLayerUpload action"
)
ABSENT = (
    "name unknown: The repository with name '{name}' does not exist in the registry with id "
    "'123456789012'"
)
IMMUTABLE = (
    "tag invalid: The image tag '1' already exists in the 'hello' repository and cannot be "
    "overwritten because the tag is immutable."
)
# Names that look like what passes by itself.
NAMES = ["hello", "eof", "geoffrey", "my-503", "tls-handshake/no-such-host"]


def error(message: str) -> SamebitsError:
    return push_error(REFERENCE, message)


@pytest.mark.parametrize("name", NAMES)
def test_the_missing_action_is_named_whatever_else_is_called_how(name: str) -> None:
    refused = error(DENIED.format(role="publish", session="samebits-500", name=name))
    assert isinstance(refused, RegistryRefused)
    assert "Allow ecr:InitiateLayerUpload in the role's policy; docs/aws.md" in refused.hint
    assert "arn:aws:sts::123456789012:assumed-role/publish/" in refused.why
    assert not refused.retryable


HEAD = "unexpected status from HEAD request to https://registry.example/v2/hello/{}: 403 Forbidden"


@pytest.mark.parametrize(
    ("message", "action"),
    [
        (
            'error parsing HTTP 403 response body: unexpected end of JSON input: ""',
            "ecr:BatchCheckLayerAvailability",
        ),
        (HEAD.format("blobs/sha256:503abc"), "ecr:BatchCheckLayerAvailability"),
        (HEAD.format("manifests/1"), "ecr:BatchGetImage"),
    ],
)
def test_an_action_that_the_registry_cannot_name_is_named_here(message: str, action: str) -> None:
    refused = error(message)
    assert isinstance(refused, RegistryRefused)
    assert action in refused.hint
    assert not refused.retryable


def test_a_connection_that_ends_is_tried_again_and_says_what_else_it_may_be() -> None:
    for message in ("EOF", "unexpected EOF"):
        away = error(message)
        assert isinstance(away, RegistryUnavailable)
        assert "ecr:PutImage" in away.hint
    assert error("connection reset by peer").hint == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_repository_that_is_not_there_is_no_fault_that_passes(name: str) -> None:
    missing = error(ABSENT.format(name=name))
    assert isinstance(missing, RepositoryMissing)
    assert f"name '{name}' does not exist" in missing.why
    assert not missing.retryable


@pytest.mark.parametrize(
    "message",
    [
        IMMUTABLE,
        "manifest rejected because the tag is immutable",
    ],
)
def test_a_tag_that_cannot_move_is_taken(message: str) -> None:
    assert type(error(message)) is TagTaken
    assert not TagTaken.retryable


def test_a_token_that_has_expired_is_worth_a_new_login() -> None:
    expired = error("denied: Your authorization token has expired. Reauthenticate and try again.")
    assert isinstance(expired, TokenExpired)
    assert expired.retryable


@pytest.mark.parametrize(
    "message",
    ["toomanyrequests: Rate exceeded", "received unexpected HTTP status: 503 Service Unavailable"],
)
def test_what_ecr_does_not_take_now_is_worth_a_second_try(message: str) -> None:
    assert isinstance(error(message), RegistryUnavailable)


def test_a_login_that_is_wrong_is_not_tried_again() -> None:
    for message in ("no basic auth credentials", "unauthorized: Not Authorized"):
        refused = error(message)
        assert type(refused) is RegistryRefused
        assert "user, password and permissions" in refused.hint
