"""An AWS account for tests, on one port: moto answers for the APIs, a real registry has the bits.

    with running_cloud("127.0.0.1:5000") as cloud:
        cloud.client("ecr").create_repository(repositoryName="hello")

moto keeps its state for the whole process: only one account can run at a time, and each starts
empty. What CloudFormation does to other services happens inside moto: it makes no calls that could
be recorded or refused.
"""

import contextlib
import io
import json
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import boto3
from moto.iam.models import iam_backends
from moto.moto_api._internal import moto_api_backend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from tests.aws.ecr import PUBLIC_HOST, Images, RegistryFront, Tokens, repository_arn
from tests.aws.ecr_api import EcrApi, repositories_of, scan_result
from tests.aws.faults import ACCOUNT, REGION, Caller, Calls, Faults, Needs, caller_of, denied

_SCOPE = re.compile(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/aws4_request")
# One for all accounts: it keeps what the SDK ships of each service, which takes long to read.
_SESSION = boto3.session.Session()
_KEYS = {"aws_access_key_id": "AKIAADMINOFTESTS0000", "aws_secret_access_key": "secret"}
_AGENT = Caller("ecs", f"arn:aws:sts::{ACCOUNT}:assumed-role/ecsTaskExecutionRole/ecs")


@dataclass(frozen=True)
class ApiCall:
    """One request to an API of AWS. REST services have the HTTP method as operation."""

    access_key: str
    service: str
    operation: str
    protocol: str
    parameters: Mapping[str, Any]

    @property
    def action(self) -> str:
        return f"{self.service}:{self.operation}"


def read_call(request: Request) -> ApiCall:
    """What is asked, and with which key."""
    scope = _SCOPE.search(request.headers.get("Authorization", ""))
    key, service = scope.groups() if scope else ("", "unsigned")
    target, body = request.headers.get("X-Amz-Target"), request.get_data()
    if target:
        return ApiCall(key, service, target.rpartition(".")[2], "json", json.loads(body or b"{}"))
    words = dict(parse_qsl(body.decode(errors="replace"))) | request.args.to_dict()
    if "Action" in words:
        return ApiCall(key, service, words["Action"], "query", words)
    return ApiCall(key, service, request.method, "json", {})


def needs_of(call: ApiCall) -> Needs:
    """The permissions that a call needs, those to pass a role to a service included.

    Source: https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
    """
    given = call.parameters
    passed = [given.get(name) for name in ("taskRoleArn", "executionRoleArn", "RoleARN")]
    return [
        *((call.action, resource) for resource in _resources(call)),
        *(("iam:PassRole", role) for role in passed if role),
    ]


def _resources(call: ApiCall) -> list[str | None]:
    given = call.parameters
    if call.action == "ecr:GetAuthorizationToken":
        return ["*"]
    if call.service == "ecr":
        # To describe all repositories, a role needs the right to each of them.
        names = repositories_of(given) or (["*"] if "DescribeRepositories" in call.action else [])
        registry = given.get("registryId") or ACCOUNT
        return [repository_arn(name, registry) for name in names] or [None]
    if call.service == "ecs" and ("service" in given or "services" in given):
        cluster = str(given.get("cluster", "default")).rpartition("/")[2]
        prefix = f"arn:aws:ecs:{REGION}:{ACCOUNT}:service/{cluster}/"
        names = given.get("services") or [given.get("service")]
        return [name if name.startswith("arn:") else prefix + name for name in names]
    if call.service == "cloudformation" and "StackName" in given:
        name = given["StackName"]
        prefix = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/"
        return [name if name.startswith("arn:") else f"{prefix}{name}/*"]
    return [given["RoleArn"] if call.action == "sts:AssumeRole" else None]


class Cloud:
    """A running account."""

    account = ACCOUNT
    region = REGION

    def __init__(
        self, registry: str, folder: str, address: str, scheme: str, *, public_names: bool
    ) -> None:
        self.url = f"{scheme}://{address}"
        self.registry_host = PUBLIC_HOST if public_names else address
        """What `repositoryUri` begins with"""
        self._clients = dict[str, Any]()
        self._lock = threading.Lock()
        self._tokens, self._images = Tokens(), Images(registry, folder)
        self._api = EcrApi(self._images, self._tokens, f"{scheme}://{self.registry_host}")
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.faults = Faults(self._tokens.expire)
        self._front = RegistryFront(self._images, self._tokens, self.faults)

    @property
    def calls(self) -> Calls:
        """Who called what, in order."""
        return self.faults.calls

    def client(self, service: str, **settings: Any) -> Any:
        """A client of boto3, the administrator's unless the settings say otherwise."""
        known = {"region_name": REGION, "endpoint_url": self.url, **_KEYS}
        if settings:
            return _SESSION.client(service, **(known | settings))
        with self._lock:  # a client takes long to make
            if service not in self._clients:
                self._clients[service] = _SESSION.client(service, **known)
            return self._clients[service]

    def pull_credentials(self) -> dict[str, str]:
        """What Docker needs to pull, of a fresh token that no fault has met."""
        return {"username": "AWS", "password": self._tokens.issue(_AGENT)[0]}

    def set_findings(
        self, repository: str, digest: str, counts: Mapping[str, int], status: str = "COMPLETE"
    ) -> None:
        """What the scan of an image found, by severity; its status may be IN_PROGRESS or FAILED."""
        self.set_answer(repository, digest, scan_result(counts, status))

    def set_answer(self, repository: str, digest: str, scan: dict[str, Any]) -> None:
        """What DescribeImageScanFindings says of an image, word by word."""
        self._api.findings[repository, digest] = scan

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request, as WSGI asks for it."""
        request = Request(environ)
        is_registry = request.path.rstrip("/") == "/v2" or request.path.startswith("/v2/")
        answer = self._front.answer(request) if is_registry else self._ask(request)
        with contextlib.suppress(ClientDisconnected):
            while request.stream.read(65536):  # a refused client still sends
                pass
        return answer(environ, start_response)

    def _ask(self, request: Request) -> Response:
        call = read_call(request)
        caller = caller_of(call.access_key)
        needs = needs_of(call)
        refusal = self.faults.admit(caller, call.action, needs)
        if not refusal and call.action == "sts:AssumeRole" and not _has_role(needs[0][1] or ""):
            refusal = denied(caller, *needs[0])
        if refusal:
            return refusal.answer(call.protocol)
        return self._api.answer(call.action, call.parameters, caller) or self._ask_moto(request)

    def _ask_moto(self, request: Request) -> Response:
        body = request.get_data()
        # The body is known in whole by now, also where it came in chunks.
        environ = {k: v for k, v in request.environ.items() if k != "HTTP_TRANSFER_ENCODING"}
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        answer = Response.from_app(self._moto, environ, buffered=True)
        if re.search("json|xml", answer.content_type or ""):
            names = PUBLIC_HOST.encode(), self.registry_host.encode()
            answer.set_data(answer.get_data().replace(*names))
        return answer


def _has_role(arn: str) -> bool:
    return any(role.arn == arn for role in iam_backends[ACCOUNT]["aws"].roles.values())


class _Quiet(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        """The record of calls says more."""

    def log_error(self, *_: Any) -> None:
        """Docker tries TLS first; errors of the account itself are still logged."""


@contextmanager
def running_cloud(
    registry: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    public_names: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    folder: str = "",
) -> Iterator[Cloud]:
    """An empty account that ends with the block.

    `registry` is host:port of a real registry; port 0 is a free one. With `public_names`, answers
    name the registry as AWS does: the caller makes that name lead here, to port 443. The images
    are in a folder of their own in the registry; accounts that share one find each other's layers,
    which makes a push quick.
    """
    moto_api_backend.reset()
    server = make_server(
        host, port, _not_yet, threaded=True, request_handler=_Quiet, ssl_context=ssl_context
    )
    scheme = "https" if ssl_context else "http"
    address = f"{host}:{server.port}"
    server.app = cloud = Cloud(registry, folder, address, scheme, public_names=public_names)
    thread = threading.Thread(target=server.serve_forever, args=[0.05], name="cloud", daemon=True)
    thread.start()
    try:
        yield cloud
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def _not_yet(environ: dict[str, Any], start_response: Any) -> Any:
    """The port is known before the account is."""
    return Response(status=503)(environ, start_response)
