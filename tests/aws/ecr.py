"""ECR for tests: a real registry holds the bits, moto knows the repositories and images.

What moto does otherwise than ECR is answered here: tokens, digests, immutable tags, findings.
Unlike ECR, a layer is sent by this server and not by a redirect to S3.
"""

import hashlib
import http.client
import re
import secrets
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from moto.ecr.models import Image, Repository, ecr_backends
from werkzeug.wrappers import Request, Response

from tests.aws.faults import ACCOUNT, REGION, Caller, Faults, registry_error

TOKEN_SECONDS = 12 * 3600.0
PUBLIC_HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
_PATH = re.compile(r"/v2/(?P<name>.+?)/(?P<kind>manifests|blobs|tags)/(?P<rest>.*)")
_FORWARDED = ("Accept", "Content-Type", "Content-Length", "Content-Range", "Range", "User-Agent")
_NOT_RETURNED = ("connection", "date", "transfer-encoding")
# Which permission each request of a registry's client needs:
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
_ACTIONS = {
    ("HEAD", "blobs"): "ecr:BatchCheckLayerAvailability",
    ("GET", "blobs"): "ecr:GetDownloadUrlForLayer",
    ("POST", "uploads"): "ecr:InitiateLayerUpload",
    ("PATCH", "uploads"): "ecr:UploadLayerPart",
    ("GET", "uploads"): "ecr:UploadLayerPart",
    ("PUT", "uploads"): "ecr:CompleteLayerUpload",
    ("PUT", "manifests"): "ecr:PutImage",
    ("GET", "manifests"): "ecr:BatchGetImage",
    ("HEAD", "manifests"): "ecr:BatchGetImage",
    ("GET", "tags"): "ecr:ListImages",
}


def repository_arn(name: str, registry: str = ACCOUNT) -> str:
    return f"arn:aws:ecr:{REGION}:{registry}:repository/{name}"


def find_repository(name: str, registry: str = ACCOUNT) -> Repository:
    """The repository of an account, which is its registry. Errors: Refused.

    moto keeps them by their names only, whatever account they were created for.
    """
    found: Repository | None = ecr_backends[ACCOUNT][REGION].repositories.get(name)
    if not found or found.registry_id != registry:
        raise Refused("RepositoryNotFoundException", absent(name, registry))
    return found


def digest_of(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


class Refused(Exception):
    """ECR refuses: its error code, and its text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Tokens:
    """The registry tokens that were handed out: for whom, and until when."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[Caller, float]] = {}

    def issue(self, caller: Caller) -> tuple[str, float]:
        """A new token, and its end in seconds since 1970."""
        token, end = secrets.token_urlsafe(900), time.time() + TOKEN_SECONDS
        self._tokens[token] = (caller, end)
        return token, end

    def expire(self) -> None:
        """All tokens so far have expired."""
        self._tokens.update({token: (who, 0.0) for token, (who, _) in self._tokens.copy().items()})

    def owner(self, token: str) -> tuple[Caller, float] | None:
        """Whom a token was given to, and its end."""
        return self._tokens.get(token)


class Images:
    """The manifests of all repositories, in the real registry and in moto alike."""

    def __init__(self, registry: str, folder: str) -> None:
        self._registry = registry
        # Each account begins with empty repositories in a registry that may outlive it.
        self._folder = folder or uuid.uuid4().hex
        self._lock = threading.Lock()

    def send(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Response:
        """Ask the real registry for a path after /v2/; body and answer are streamed."""
        connection = http.client.HTTPConnection(self._registry, timeout=60, blocksize=65536)
        try:
            connection.request(
                method,
                f"/v2/{self._folder}/{path}",
                body,
                dict(headers),
                encode_chunked=headers.get("Transfer-Encoding") == "chunked",
            )
            answer = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        kept = [
            (name, text.replace(f"/v2/{self._folder}/", "/v2/", 1))
            for name, text in answer.getheaders()
            if name.lower() not in _NOT_RETURNED
        ]
        response = Response(_blocks(answer), answer.status, kept)
        response.call_on_close(connection.close)
        return response

    def put(
        self, repository: Repository, tag: str | None, manifest: bytes, headers: Mapping[str, str]
    ) -> Response:
        """Store a manifest; the answer is the real registry's. Errors: Refused."""
        digest = digest_of(manifest)
        with self._lock:
            _check_tag(repository, tag)
            path = f"{repository.name}/manifests/{tag or digest}"
            answer = self.send("PUT", path, headers, manifest)
            if answer.status_code == 201:
                _tell_moto(repository, tag, digest, headers["Content-Type"], manifest.decode())
        return answer


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := answer.read(65536):
        yield block


def _check_tag(repository: Repository, tag: str | None) -> None:
    """Also the same manifest is refused under a tag that cannot change, as ECR does:
    https://github.com/aws/containers-roadmap/issues/2179
    """
    patterns = [each["filter"] for each in repository.image_tag_mutability_exclusion_filters or []]
    excluded = any(fnmatchcase(tag or "", pattern) for pattern in patterns)
    immutable = repository.is_tag_immutable() != excluded
    if tag and immutable and any(tag in image.image_tags for image in repository.images):
        raise Refused(
            "ImageTagAlreadyExistsException",
            f"The image tag '{tag}' already exists in the '{repository.name}' repository and "
            "cannot be overwritten because the tag is immutable.",
        )


def _tell_moto(
    repository: Repository, tag: str | None, digest: str, media_type: str, manifest: str
) -> None:
    known = find_image(repository, digest)
    if known and (tag is None or tag in known.image_tags):
        return
    for image in repository.images:  # moto would delete an image that loses its last tag
        if tag in image.image_tags:
            image.remove_tag(tag)
            image.image_tag = image.image_tags[-1] if image.image_tags else None
    ecr_backends[ACCOUNT][REGION].put_image(repository.name, manifest, tag, media_type, digest)


def find_image(repository: Repository, reference: str) -> Image | None:
    """The image of a tag or digest."""
    for image in repository.images:
        if reference == image.image_digest or reference in image.image_tags:
            return image
    return None


class RegistryFront:
    """What Docker speaks to: `/v2/`, with ECR's tokens and ECR's refusals."""

    def __init__(self, images: Images, tokens: Tokens, faults: Faults) -> None:
        self._images, self._tokens, self._faults = images, tokens, faults

    def answer(self, request: Request) -> Response:
        """Answer one request of a registry's client."""
        caller = self._caller(request)
        if isinstance(caller, Response):
            return caller
        if request.path.rstrip("/") == "/v2":
            return Response("{}", content_type="application/json")
        return self._answer(request, caller)

    def _answer(self, request: Request, caller: Caller) -> Response:
        match = _PATH.fullmatch(request.path)
        kind = "uploads" if match and match["rest"].startswith("uploads/") else match and match[2]
        action = _ACTIONS.get((request.method, kind or ""))
        if not match or not action:
            return registry_error(405, "UNSUPPORTED", "The operation is unsupported")
        name, arn = match["name"], repository_arn(match["name"])
        refusal = self._faults.admit(caller, action, [(action, arn)])
        if refusal:
            return refusal.answer("registry")
        try:
            repository = find_repository(name)
        except Refused as refused:
            return registry_error(404, "NAME_UNKNOWN", str(refused))
        if kind == "manifests":
            return self._manifest(request, repository, match["rest"])
        headers = _headers(request)
        # http.client would send a body of unknown length even where the client has none.
        body = request.stream if headers.keys() & {"Content-Length", "Transfer-Encoding"} else None
        return self._images.send(request.method, _path_of(request), headers, body)

    def _caller(self, request: Request) -> Caller | Response:
        given = request.authorization
        name, token = (given.username, given.password) if given else (None, None)
        owner = self._tokens.owner(token or "") if name == "AWS" else None
        if not owner:
            answer = registry_error(401, "UNAUTHORIZED", "Not Authorized")
            answer.headers["WWW-Authenticate"] = (
                f'Basic realm="https://{PUBLIC_HOST}/",service="ecr.amazonaws.com"'
            )
            return answer
        caller, end = owner
        if end < time.time():
            why = "Your authorization token has expired. Reauthenticate and try again."
            return registry_error(403, "DENIED", why)
        return caller

    def _manifest(self, request: Request, repository: Repository, reference: str) -> Response:
        headers = _headers(request)
        if request.method == "PUT":
            tag = None if reference.startswith("sha256:") else reference
            try:
                headers.pop("Transfer-Encoding", None)
                return self._images.put(repository, tag, request.get_data(), headers)
            except Refused as refused:
                return registry_error(400, "TAG_INVALID", str(refused))
        image = find_image(repository, reference)
        if not image:
            return registry_error(404, "MANIFEST_UNKNOWN", "Requested image not found")
        headers["Accept"] = image.image_manifest_media_type or "*/*"
        return self._images.send(request.method, _path_of(request), headers, None)


def absent(name: str, registry: str) -> str:
    """ECR's text for a repository that is not there."""
    return f"The repository with name '{name}' does not exist in the registry with id '{registry}'"


def _path_of(request: Request) -> str:
    """The path after /v2/. Without `mount`: ECR's repositories share no layers."""
    query = request.query_string.decode()
    mounts = request.method == "POST" and "mount" in request.args
    return request.path.removeprefix("/v2/") + (f"?{query}" if query and not mounts else "")


def _headers(request: Request) -> dict[str, str]:
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    headers |= {"Host": request.host, "X-Forwarded-Proto": request.scheme}
    if "chunked" in request.headers.get("Transfer-Encoding", ""):
        headers["Transfer-Encoding"] = "chunked"
    return headers
