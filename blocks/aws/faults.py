"""What can go wrong at AWS, as named errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import botocore.session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - it is botocore's name
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
)

from domain.errors import AwsRefused, AwsUnavailable, SamebitsError
from domain.names import one_line

_THROTTLED = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded|Rate exceeded|SlowDown")
_BUSY = re.compile(r"Too many concurrent attempts")
_DENIED = re.compile(r"AccessDenied|UnauthorizedOperation|NotAuthorized")
_BAD_KEYS = re.compile(
    r"ExpiredToken|InvalidClientTokenId|UnrecognizedClient|SignatureDoesNotMatch|InvalidSignature"
    r"|AuthFailure|IncompleteSignature|MissingAuthenticationToken|InvalidAccessKeyId"
)
_ACTION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)", re.IGNORECASE)


@contextmanager
def aws_faults(doing: str) -> Iterator[None]:
    """Turn what the SDK raises while `doing` something into an error of ours."""
    try:
        yield
    except ClientError as error:
        raise aws_error(doing, error) from error
    except NoCredentialsError as error:
        raise AwsRefused(
            f"No AWS credentials were found for {doing}.",
            hint="Give the worker's machine an IAM role, or fill in the AWS Credentials block.",
        ) from error
    except ProfileNotFound as error:
        raise AwsRefused(
            f"The AWS profile for {doing} is not on the worker's machine.",
            why=one_line(str(error), 200),
            hint="Correct profile_name in the AWS Credentials block.",
        ) from error
    except EndpointConnectionError as error:
        raise _unreachable(doing, error) from error
    except (HTTPClientError, ConnectionError) as error:
        raise AwsUnavailable(
            f"AWS does not answer (while {doing}).", why=one_line(str(error), 300)
        ) from error
    except ParamValidationError as error:
        raise AwsRefused(
            f"AWS was asked for something that cannot be (while {doing}).",
            why=one_line("; ".join(str(error.kwargs["report"]).splitlines()), 600),
            hint="Check assume_role_arn in the AWS Credentials block, and the names in the "
            "registry's or the stack's block.",
        ) from error
    except BotoCoreError as error:
        raise AwsRefused(
            f"AWS cannot be asked (while {doing}).",
            why=one_line(str(error), 300),
            hint="Check the AWS Credentials block.",
        ) from error


def code_of(error: ClientError) -> str:
    """The code of an answer of AWS, e.g. `RepositoryNotFoundException`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def aws_error(doing: str, error: ClientError) -> SamebitsError:
    """The error for an answer of AWS."""
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    # One line: with a wrong signature, the next ones repeat the request and its session token.
    said = one_line(f"{code}: {message}", 400)
    if _THROTTLED.search(code) or _BUSY.search(message) or status >= 500:
        return AwsUnavailable(
            f"AWS did not take a call, however often it was tried (while {doing}).",
            why=said,
            hint="Retry the run later.",
        )
    if error.operation_name == "AssumeRole":
        return AwsRefused(
            f"The role for {doing} could not be assumed.",
            why=said,
            hint="Check assume_role_arn (and ExternalId) in the AWS Credentials block, that the "
            "role's trust policy names the worker's own role, and that the worker's own role may "
            "assume it (sts:AssumeRole).",
        )
    if _BAD_KEYS.search(code):
        return AwsRefused(
            f"AWS does not take the credentials for {doing}.",
            why=said,
            hint="Correct the keys in the AWS Credentials block; better, leave them empty and give "
            "the worker's machine an IAM role.",
        )
    # A missing iam:PassRole comes as a ClientException, and is told only by its message.
    action = denied_action(message)
    if action or _DENIED.search(code):
        return AwsRefused(
            f"The role may not do this: {action or error.operation_name} (while {doing}).",
            why=said,
            hint="Allow this action in the role's policy; docs/aws.md lists what each role needs.",
        )
    return AwsRefused(f"AWS refused {doing}.", why=said)


def denied_action(message: str) -> str:
    """The action that AWS's message says is missing, e.g. `ecs:UpdateService`; empty for none."""
    found = _ACTION.search(message)
    return found[1] if found else ""


def _unreachable(doing: str, error: EndpointConnectionError) -> SamebitsError:
    """A region that does not exist has no address: that does not heal, a network does."""
    url = str(error.kwargs.get("endpoint_url", ""))
    region = re.search(r"\.([a-z0-9-]+)\.amazonaws\.com", url)
    session = botocore.session.get_session()
    known = {
        name
        for partition in session.get_available_partitions()
        for name in session.get_available_regions("ecs", partition_name=partition)
    }
    if region and region[1] not in known:
        return AwsRefused(
            f"There is no AWS region {region[1]!r} (while {doing}).",
            why=f"{url} cannot be reached, and this version of the AWS SDK does not know it.",
            hint="Correct region_name in the AWS Credentials block.",
        )
    return AwsUnavailable(f"AWS cannot be reached (while {doing}).", why=one_line(str(error), 300))
