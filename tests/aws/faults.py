"""What the tests' AWS account refuses, and what it was asked, by IAM action name.

Actions are named as in a policy, e.g. "ecs:UpdateService"; see
https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
All of it may be used from several threads.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import yaml
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends
from werkzeug.wrappers import Response

ACCOUNT = "123456789012"
REGION = "us-east-1"
Needs = Sequence[tuple[str, str | None]]
"""Actions and the resource of each; None for a resource that is not looked at"""


@dataclass(frozen=True)
class Caller:
    """Who calls: a user, or a role that somebody assumed."""

    name: str
    arn: str
    role: str | None = None


ADMIN = Caller("admin", f"arn:aws:iam::{ACCOUNT}:user/admin")


def caller_of(access_key: str) -> Caller:
    """The owner of an access key; a key that moto did not hand out is the administrator's."""
    role = sts_backends[ACCOUNT]["aws"].get_assumed_role_from_access_key(access_key)
    if role:
        name = role.role_arn.rpartition("/")[2]
        return Caller(name, role.arn, name)
    user = iam_backends[ACCOUNT]["aws"].get_user_from_access_key_id(access_key)
    return Caller(user.name, user.arn) if user else ADMIN


class Call(NamedTuple):
    """One request that was known to come from somebody."""

    caller: str
    """Name of the role or user"""
    action: str


class Calls:
    """All calls, in order."""

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._calls))

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        self._calls.append(call)

    def clear(self) -> None:
        self._calls.clear()

    def actions(self, caller: str | None = None) -> list[str]:
        """The actions of one caller, or of all."""
        return [call.action for call in self if caller in (None, call.caller)]


@dataclass(frozen=True)
class Refusal:
    """An error in the words of the three protocols: status and code of each, one message."""

    json: tuple[int, str]
    query: tuple[int, str]
    registry: tuple[int, str]
    message: str

    def answer(self, protocol: str) -> Response:
        """The HTTP answer in the protocol "json", "query" or "registry"."""
        answers: dict[str, Callable[[int, str, str], Response]] = {
            "json": json_error,
            "query": query_error,
            "registry": registry_error,
        }
        status, code = getattr(self, protocol)
        return answers[protocol](status, code, self.message)


def json_error(status: int, code: str, message: str) -> Response:
    """Source: https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html"""
    body = json.dumps({"__type": code, "message": message})
    return Response(body, status, content_type="application/x-amz-json-1.1")


def query_error(status: int, code: str, message: str) -> Response:
    """Source: https://smithy.io/2.0/aws/protocols/aws-query-protocol.html"""
    kind = "Sender" if status < 500 else "Receiver"
    body = (
        f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code>"
        f"<Message>{escape(message)}</Message></Error><RequestId>0</RequestId></ErrorResponse>"
    )
    return Response(body, status, content_type="text/xml")


def registry_error(status: int, code: str, message: str) -> Response:
    """Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes"""
    body = json.dumps({"errors": [{"code": code, "message": message}]})
    return Response(body, status, content_type="application/json")


# The protocols have codes of their own: CloudFormation, IAM and STS say Throttling and AccessDenied
# where ECR and ECS say ThrottlingException and AccessDeniedException.
_THROTTLED = Refusal(
    (400, "ThrottlingException"), (400, "Throttling"), (429, "TOOMANYREQUESTS"), "Rate exceeded"
)


def _failed(status: int) -> Refusal:
    if status == 503:
        code, query = "ServiceUnavailable", "ServiceUnavailable"
    else:
        code, query = "ServerException", "InternalFailure"
    return Refusal((status, code), (status, query), (status, "UNKNOWN"), f"Failed with {status}")


def denied(caller: Caller, action: str, resource: str | None, why: str = "") -> Refusal:
    """Access denied, in AWS's own text.

    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    """
    message = (
        f"User: {caller.arn} is not authorized to perform: {action} "
        f"on resource: {resource or '*'}{why}"
    )
    return Refusal((400, "AccessDeniedException"), (403, "AccessDenied"), (403, "DENIED"), message)


class Faults:
    """Refusals that a test asks for. They meet every caller, the administrator too."""

    def __init__(self, expire_tokens: Callable[[], None]) -> None:
        self.calls = Calls()
        self.expire_tokens = expire_tokens
        """All registry tokens that were handed out so far have expired from now on."""
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Refuse nothing from now on; expired tokens stay expired."""
        with self._lock:
            self._refusals: dict[str, list[Refusal]] = {}
            self._denied: set[str] = set()
            self._until_expiry: Counter[str] = Counter()
            self._policies = False

    def throttle(self, action: str, times: int = 1) -> None:
        """Answer the next calls with the throttling error."""
        self._refuse(action, _THROTTLED, times)

    def fail(self, action: str, status: int = 500, times: int = 1) -> None:
        """Answer the next calls with a server's error: 500 or 503."""
        self._refuse(action, _failed(status), times)

    def deny(self, action: str) -> None:
        """Deny access from now on."""
        with self._lock:
            self._denied.add(action)

    def expire_tokens_after(self, action: str, times: int = 1) -> None:
        """Serve this action so many times more; then all tokens that exist have expired."""
        with self._lock:
            self._until_expiry[action] = times

    def enforce_policies(self) -> None:
        """From now on an assumed role may do what its policies allow, and nothing else.

        Resources are looked at where `Needs` names one (ECR, ECS services, stacks, passed and
        assumed roles); conditions, boundaries and trust policies are not.
        """
        with self._lock:
            self._policies = True

    def admit(self, caller: Caller, action: str, needs: Needs) -> Refusal | None:
        """Record a call, and say how it is refused."""
        with self._lock:
            self.calls.add(Call(caller.name, action))
            if action in self._until_expiry:
                self._until_expiry[action] -= 1
                if self._until_expiry[action] <= 0:
                    del self._until_expiry[action]
                    self.expire_tokens()
            if action in self._denied:
                why = f" because no identity-based policy allows the {action} action"
                return denied(caller, action, needs[0][1], why)
            if self._refusals.get(action):
                return self._refusals[action].pop(0)
            enforced = self._policies and caller.role
        return _lacking(caller, needs) if enforced else None

    def _refuse(self, action: str, refusal: Refusal, times: int) -> None:
        with self._lock:
            self._refusals.setdefault(action, []).extend([refusal] * times)


def _lacking(caller: Caller, needs: Needs) -> Refusal | None:
    """The refusal for the first need that the policies of a role do not allow."""
    policies = _policies(caller.role or "")
    for action, resource in needs:
        if action == "sts:GetCallerIdentity":  # AWS allows it to everybody
            continue
        results = {
            _narrowed(policy, any_resource=resource is None).is_action_permitted(
                action, resource or "*"
            )
            for policy in policies
        }
        if PermissionResult.DENIED in results:
            why = " with an explicit deny in an identity-based policy"
            return denied(caller, action, resource, why)
        if PermissionResult.PERMITTED not in results:
            why = f" because no identity-based policy allows the {action} action"
            return denied(caller, action, resource, why)
    return None


def _policies(role: str) -> list[Any]:
    backend = iam_backends[ACCOUNT]["aws"]
    try:
        # moto keeps what a template gave as a dict, or as Python would print it: that is YAML.
        inline = [
            {"policy_document": json.dumps(yaml.safe_load(str(text)))}
            for text in backend.get_role(role).policies.values()
        ]
        return [*inline, *backend.list_attached_role_policies(role)[0]]
    except NotFoundException:
        return []


def _narrowed(policy: Any, *, any_resource: bool) -> IAMPolicy:
    """A policy without what is not looked at; conditional denials are left out with it."""
    known = IAMPolicy(policy)
    statements = known._policy_json["Statement"]
    if isinstance(statements, dict):
        statements = [statements]
    known._policy_json = {
        "Statement": [
            {key: value for key, value in statement.items() if key != "Condition"}
            | ({"Resource": "*"} if any_resource else {})
            for statement in statements
            if not (statement["Effect"] == "Deny" and "Condition" in statement)
        ]
    }
    return known
