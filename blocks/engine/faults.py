"""What can go wrong at the engine, as named errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests.exceptions
import urllib3.exceptions

from domain.errors import (
    DiskFull,
    EngineRefused,
    EngineUnavailable,
    RegistryRefused,
    RegistryUnavailable,
    RepositoryMissing,
    SamebitsError,
    TagTaken,
    TokenExpired,
)
from domain.names import one_line

_AWAY = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)
_REFUSED = re.compile(
    r"unauthorized|authentication required|no basic auth|denied|forbidden|\b40[13]\b", re.IGNORECASE
)
# Amazon ECR's words; other registries know some of these faults, too.
_EXPIRED = re.compile(r"token has expired", re.IGNORECASE)
_IMMUTABLE = re.compile(r"tag is immutable|tag invalid", re.IGNORECASE)
_NO_REPOSITORY = re.compile(r"name unknown|repository with name .* does not exist", re.IGNORECASE)
_ACTION = re.compile(r"not authorized to perform: ([\w-]+:\w+)")
# The answer to a HEAD request has no body that could name the action: Docker's words for it, and
# containerd's. Source: https://github.com/aws-actions/amazon-ecr-login/issues/14
_UNSAID = (
    (re.compile(r"HTTP 403 response body: unexpected end"), "ecr:BatchCheckLayerAvailability"),
    (re.compile(r"HEAD request to \S+/blobs/\S+ 403"), "ecr:BatchCheckLayerAvailability"),
    (re.compile(r"HEAD request to \S+/manifests/\S+ 403"), "ecr:BatchGetImage"),
)
_PASSING = re.compile(
    r"\b50[0234]\b|\b429\b|connection re(?:set|fused)|\bEOF\b|i/o timeout|no such host"
    r"|TLS handshake|toomanyrequests|received unexpected HTTP status|request canceled"
    r"|blob upload unknown"
    r"|deadline exceeded|network is unreachable|use of closed network connection",
    re.IGNORECASE,
)
_EOF = re.compile(r"\bEOF\b")
# Source: https://github.com/CircleCI-Public/aws-ecr-orb/issues/259
_EOF_HINT = (
    "If it stays so in Amazon ECR, see whether the role's policy lacks ecr:InitiateLayerUpload or "
    "ecr:PutImage (docs/aws.md): ECR may close the connection then."
)


@contextmanager
def engine_faults(doing: str) -> Iterator[None]:
    """Turn what the SDK raises while `doing` something into an error of ours."""
    try:
        yield
    except docker.errors.APIError as error:
        raise engine_error(doing, str(error.explanation or error)) from error
    except docker.errors.DockerException as error:
        raise _unavailable(doing, error) from error
    except _AWAY as error:
        # An engine that is killed in the middle surfaces as urllib3's ProtocolError.
        raise _unavailable(doing, error) from error


def engine_error(doing: str, message: str) -> SamebitsError:
    """The error for a message of the engine itself."""
    if "no space left on device" in message.lower():
        return DiskFull(
            f"No space was left while {doing}.",
            why=one_line(message, 300),
            hint="Free space on the engine's disk (see docker system df), then retry.",
        )
    return EngineRefused(f"The Docker engine refused {doing}.", why=one_line(message, 500))


def push_error(reference: str, message: str) -> SamebitsError:
    """The error for a line of a push or pull stream, whose faults are the registry's."""
    if "no space left on device" in message.lower():
        return engine_error(f"moving {reference}", message)
    # The name of an image is no part of what went wrong with it.
    said = message.replace(reference, "")
    # A clear refusal first: the names in it may look like what passes by itself.
    refusal = _refusal(f"The registry refused {reference}.", said, one_line(message, 400))
    if refusal:
        return refusal
    if _PASSING.search(said):
        return RegistryUnavailable(
            f"The registry did not take or give {reference}.",
            why=one_line(message, 300),
            hint=_EOF_HINT if _EOF.search(said) else "",
        )
    hint = "See its log."
    if _REFUSED.search(said):
        hint = "Check user, password and permissions in the registry's block."
    return RegistryRefused(
        f"The registry refused {reference}.", why=one_line(message, 400), hint=hint
    )


def _refusal(what: str, said: str, why: str) -> SamebitsError | None:
    """The error for what the registry says it does not want; it names what is to be changed."""
    if _EXPIRED.search(said):
        return TokenExpired(what, why=why, hint="It is tried again with a new login.")
    if _IMMUTABLE.search(said):
        return TagTaken(what, why=why)
    if _NO_REPOSITORY.search(said):
        return RepositoryMissing(what, why=why, hint="Create the repository in the registry.")
    if action := _ACTION.search(said):
        return RegistryRefused(
            what,
            why=why,
            hint=f"Allow {action[1]} in the role's policy; docs/aws.md lists what each role needs.",
        )
    for pattern, needed in _UNSAID:
        if pattern.search(said):
            return RegistryRefused(
                what,
                why=why,
                hint="It does not say why. Check the permissions in the registry's block; in "
                f"Amazon ECR it is {needed} that the role's policy lacks (see docs/aws.md).",
            )
    return None


def _unavailable(doing: str, error: Exception) -> EngineUnavailable:
    return EngineUnavailable(
        f"The Docker engine went away or does not answer (while {doing}).",
        why=one_line(f"{type(error).__name__}: {error}", 300),
        hint="Check that it runs: docker info.",
    )
