"""GitHub's deliveries: signatures and payloads, parsed once, without I/O.

Source: https://docs.github.com/en/webhooks/webhook-events-and-payloads#push
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domain.errors import BadInput, BadPayload
from domain.names import checked_branch, checked_sha, one_line

MAX_BODY_BYTES = 25 * 1024 * 1024
"""GitHub sends no event above this size."""

_BRANCH_PREFIX = "refs/heads/"
_NO_COMMIT = "0" * 40

Model = TypeVar("Model", bound=BaseModel)


def signature(secret: str, body: bytes) -> str:
    """The value of `X-Hub-Signature-256` for a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_signed(secret: str, body: bytes, header: str) -> bool:
    """Whether the header is the signature of the body; in constant time, for any header."""
    # compare_digest refuses str that is not ASCII, so bytes are compared.
    return hmac.compare_digest(signature(secret, body).encode(), header.encode(errors="replace"))


class _Tolerant(BaseModel):
    """GitHub adds fields and leaves others out; what is not needed here is not looked at."""

    model_config = ConfigDict(extra="ignore")


class _Person(_Tolerant):
    name: str | None = None
    username: str | None = None


class _HeadCommit(_Tolerant):
    id: str
    message: str = ""
    author: _Person = Field(default_factory=_Person)


class _Repository(_Tolerant):
    full_name: str = ""
    clone_url: str = ""


class _Push(_Tolerant):
    ref: str
    after: str = _NO_COMMIT
    deleted: bool = False
    head_commit: _HeadCommit | None = None


class _Delivery(_Tolerant):
    repository: _Repository | None = None


class Push(BaseModel):
    """A push of a commit to a branch."""

    model_config = ConfigDict(frozen=True)

    branch: str
    sha: str
    subject: str = ""
    author: str = ""


class NoRun(BaseModel):
    """A delivery that is recorded and starts nothing, and why."""

    model_config = ConfigDict(frozen=True)

    reason: str


def named_repository(body: bytes) -> tuple[str, str]:
    """The names by which a body calls its repository: full name and clone URL; empty if none.

    Raises BadPayload for a body that is not a JSON object.
    """
    repository = _parse(_Delivery, body).repository or _Repository()
    return repository.full_name, repository.clone_url


def same_repository(url: str, clone_url: str) -> bool:
    """Whether a configured URL, of whatever form, is the repository that a payload names."""
    return bool(clone_url) and _host_and_path(url) == _host_and_path(clone_url)


def read_push(event: str, body: bytes) -> Push | NoRun:
    """What a delivery asks for. Raises BadPayload for a push that cannot be read."""
    if event != "push":
        return NoRun(reason=f"a {one_line(event, 40)!r} event starts no run")
    push = _parse(_Push, body)
    if not push.ref.startswith(_BRANCH_PREFIX):
        return NoRun(reason=f"{one_line(push.ref)!r} is not a branch")
    branch = push.ref.removeprefix(_BRANCH_PREFIX)
    if push.deleted or push.after == _NO_COMMIT:
        return NoRun(reason=f"the branch {one_line(branch)!r} was deleted")
    try:
        branch, sha = checked_branch(branch), checked_sha(push.after)
    except BadInput as error:
        return NoRun(reason=str(error))
    head = push.head_commit
    if head is None or head.id != sha:
        return Push(branch=branch, sha=sha)
    author = head.author.name or head.author.username or ""
    return Push(branch=branch, sha=sha, subject=one_line(head.message), author=one_line(author))


def _parse(model: type[Model], body: bytes) -> Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise BadPayload(
            "The body is not a delivery of GitHub.",
            why=f"{where}: {first['msg']}.",
            hint="Set the webhook's content type to application/json.",
        ) from None


def _host_and_path(url: str) -> tuple[str, str]:
    """What an https URL, an ssh URL and `git@host:path` of one repository share."""
    if "://" in url:
        parts = urlsplit(url)
        host, path = parts.hostname or "", parts.path
    elif url.startswith("/"):
        host, path = "", url
    else:
        host, _, path = url.rpartition("@")[2].partition(":")
    return host.lower(), path.strip("/").removesuffix(".git").lower()


def headers_of(headers: Mapping[str, str]) -> tuple[str, str]:
    """Event and delivery id; raises BadPayload where GitHub's headers are missing."""
    event, delivery = headers.get("x-github-event", ""), headers.get("x-github-delivery", "")
    if not event or not delivery or len(delivery) > 100:
        raise BadPayload(
            "X-GitHub-Event or X-GitHub-Delivery is missing.",
            hint="Only GitHub's webhooks are taken here.",
        )
    return event, delivery
