"""Each answer of AWS, and each failure of its SDK, as an error that says what to do."""

import pickle
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    InvalidRegionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from hypothesis import given
from hypothesis import strategies as st

from blocks.aws.faults import aws_error, aws_faults, code_of, denied_action
from domain.errors import AwsRefused, AwsUnavailable, SamebitsError

DOING = "asking ECS about it"
ROLE = "arn:aws:sts::123456789012:assumed-role/samebits-stage/samebits"
SERVICE = "arn:aws:ecs:eu-west-1:123456789012:service/it/web"
TOKEN = "IQoJb3JpZ2luX2VjEHoaCXVzLWVhc3QtMSJHMEUCIQ"


def client_error(
    code: str, message: str = "", status: int = 400, operation: str = "UpdateService"
) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)


def seen(error: Exception) -> SamebitsError:
    """What becomes of an error."""
    with pytest.raises(SamebitsError) as found, aws_faults(DOING):
        raise error
    assert found.value.__cause__ is error
    return found.value


@pytest.mark.parametrize(
    "error",
    [
        client_error("ThrottlingException", "Rate exceeded"),
        client_error("Throttling", "Rate exceeded"),
        client_error("TooManyRequestsException"),
        client_error("RequestLimitExceeded", status=503),
        client_error("Throttling", operation="AssumeRole"),
        client_error("ServerException", "Service Unavailable", 500),
        client_error("ServiceUnavailable", status=503),
        client_error("502", "Bad Gateway", 502),
        client_error("ClientException", "Too many concurrent attempts to create a new revision"),
        EndpointConnectionError(endpoint_url="https://ecs.eu-west-1.amazonaws.com/"),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1/"),
        ConnectTimeoutError(endpoint_url="https://ecs.eu-west-1.amazonaws.com/"),
        ReadTimeoutError(endpoint_url="https://ecs.eu-west-1.amazonaws.com/"),
        ConnectionClosedError(endpoint_url="https://ecs.eu-west-1.amazonaws.com/"),
        ProxyConnectionError(proxy_url="http://proxy:3128"),
        SSLError(endpoint_url="https://ecs.eu-west-1.amazonaws.com/", error="handshake"),
    ],
    ids=repr,
)
def test_what_may_heal_by_itself_can_be_retried(error: Exception) -> None:
    found = seen(error)
    assert type(found) is AwsUnavailable
    assert found.retryable
    assert DOING in found.what


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (client_error("ExpiredTokenException", "The security token has expired"), "credentials"),
        (client_error("ExpiredToken"), "does not take the credentials"),
        (client_error("UnrecognizedClientException"), "does not take the credentials"),
        (client_error("InvalidClientTokenId", status=403), "does not take the credentials"),
        (client_error("InvalidSignatureException"), "does not take the credentials"),
        (client_error("MissingAuthenticationToken"), "does not take the credentials"),
        (client_error("AccessDenied", operation="AssumeRole"), "could not be assumed"),
        (client_error("AccessDeniedException", "no"), "The role may not do this: UpdateService"),
        (client_error("UnauthorizedOperation", "no"), "The role may not do this: UpdateService"),
        (client_error("InvalidParameterException", "Odd."), "InvalidParameterException: Odd."),
        (NoCredentialsError(), "No AWS credentials were found"),
        (ProfileNotFound(profile="absent"), "profile_name"),
        (InvalidRegionError(region_name="x y"), "Check the AWS Credentials block"),
        (PartialCredentialsError(provider="explicit", cred_var="x"), "AWS Credentials block"),
        (CredentialRetrievalError(provider="x", error_msg="y"), "AWS Credentials block"),
        (ParamValidationError(report="Unknown parameter: x"), "Unknown parameter: x"),
        (
            client_error(
                "ClientException",
                f"User: {ROLE} is not authorized to perform: iam:PassRole on resource: x",
            ),
            "The role may not do this: iam:PassRole",
        ),
        (BotoCoreError(), "AWS cannot be asked"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value),
)
def test_what_a_person_must_mend_says_so_and_is_not_retried(error: Exception, said: str) -> None:
    found = seen(error)
    assert type(found) is AwsRefused
    assert not found.retryable
    assert said in str(found)
    assert DOING in found.what


def test_errors_of_ours_and_of_others_pass_through() -> None:
    for error in (AwsRefused("x"), KeyError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as found, aws_faults(DOING):
            raise error
        assert found.value is error


def test_a_region_that_does_not_exist_is_not_a_network_that_is_away() -> None:
    def away(region: str) -> SamebitsError:
        return seen(EndpointConnectionError(endpoint_url=f"https://ecs.{region}.amazonaws.com/"))

    assert isinstance(away("eu-central-1"), AwsUnavailable)
    assert isinstance(away("us-gov-west-1"), AwsUnavailable)
    missing = away("eu-nowhere-9")
    assert isinstance(missing, AwsRefused)
    assert "There is no AWS region 'eu-nowhere-9'" in missing.what
    assert "region_name" in missing.hint
    registry = "https://api.ecr.eu-nowhere-9.amazonaws.com/"
    assert isinstance(seen(EndpointConnectionError(endpoint_url=registry)), AwsRefused)


NO_POLICY = "because no identity-based policy allows the ecs:UpdateService action"
NO_BOUNDARY = "because no permissions boundary allows the iam:PassRole action"
SCP = "arn:aws:organizations::987654321098:policy/o-q/service_control_policy/p-2"
STACK = "arn:aws:cloudformation:eu-west-1:123456789012:stack/it/*"
CREATE = "cloudformation:CreateChangeSet"
DENIED = "with an explicit deny in a service control policy"
MAY_NOT = f"User: {ROLE} is not authorized to perform:"


# Sources: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
# https://aws.amazon.com/blogs/security/enhanced-access-denied-error-messages-with-policy-arns
@pytest.mark.parametrize(
    ("message", "action"),
    [
        (f"{MAY_NOT} ecs:UpdateService on resource: {SERVICE} {NO_POLICY}", "ecs:UpdateService"),
        (f"{MAY_NOT} iam:PassRole on resource: * {NO_BOUNDARY}", "iam:PassRole"),
        (f"{MAY_NOT} ecr:PutImage on resource: * {DENIED}: {SCP}", "ecr:PutImage"),
        (f"{MAY_NOT} {CREATE} on resource: {STACK}", CREATE),
        (f"{MAY_NOT} ec2:DescribeInstances", "ec2:DescribeInstances"),
        ("Not authorized to perform sts:AssumeRole", "sts:AssumeRole"),
        ("You are not authorized to perform this operation.", ""),
        ("Access Denied", ""),
        ("", ""),
    ],
)
def test_the_missing_action_is_read_from_what_aws_says(message: str, action: str) -> None:
    assert denied_action(message) == action
    found = aws_error(DOING, client_error("AccessDeniedException", message))
    assert f"The role may not do this: {action or 'UpdateService'} " in found.what


def test_an_answer_without_code_and_message_is_an_error_too() -> None:
    bare = ClientError({}, "UpdateService")
    assert code_of(bare) == ""
    assert isinstance(aws_error(DOING, bare), AwsRefused)


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidSignatureException"])
def test_a_session_token_that_aws_says_back_is_not_repeated(code: str) -> None:
    message = (
        "The request signature we calculated does not match the signature you provided. Check your "
        "AWS Secret Access Key and signing method.\n\nThe Canonical String for this request should "
        f"have been\n'POST\n/\n\nhost:x\nx-amz-security-token:{TOKEN}\n'"
    )
    found = aws_error(DOING, client_error(code, message, 403))
    assert "does not match the signature" in found.why
    assert TOKEN not in str(found)
    assert "x-amz-security-token" not in str(found)


WILD = st.text() | st.sampled_from(["not authorized to perform: ", ":", "ecs:", "\x00", "\n"])


@given(st.lists(WILD).map("".join), st.text(max_size=40), st.integers(0, 999))
def test_wild_answers_are_an_error_of_few_lines(message: str, code: str, status: int) -> None:
    action = denied_action(message)
    assert action == "" or action in message
    found = aws_error(DOING, client_error(code, message, status))
    assert isinstance(found, AwsRefused | AwsUnavailable)
    assert len(str(found)) < 1000 + len(action)
    assert "\n" not in found.why


def test_the_errors_survive_the_way_between_processes() -> None:
    found = seen(client_error("ThrottlingException", "Rate exceeded"))
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
