"""The tests' own ECR: through boto3, and through a real engine that pushes and pulls."""

import base64
import hashlib
import io
import json
import os
import ssl
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from werkzeug.serving import make_ssl_devcert

from blocks.engine import Engine
from domain.errors import SamebitsError
from tests.aws.cloud import Cloud, running_cloud
from tests.conftest import RunningRegistry, unique

pytestmark = pytest.mark.engine

LAYER_MIB = 6
AT_ONCE = Config(retries={"total_max_attempts": 1})
PUSHES = [
    "ecr:BatchCheckLayerAvailability",
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
]


@pytest.fixture
def cloud(running_registry: RunningRegistry) -> Iterator[Cloud]:
    with running_cloud(running_registry.block.address) as running:
        yield running


@pytest.fixture
def ecr(cloud: Cloud) -> Any:
    """An ECR client that sees each refusal at once, and the repository `hello`."""
    client = cloud.client("ecr", config=AT_ONCE)
    client.create_repository(repositoryName="hello", imageTagMutability="IMMUTABLE")
    return client


@dataclass(frozen=True)
class Pushing:
    """Pushes images of the engine to the repository `hello`."""

    engine: Engine
    cloud: Cloud
    images: list[str]

    @property
    def repository(self) -> str:
        return f"{self.cloud.registry_host}/hello"

    def new(self, tag: str, repository: str = "") -> None:
        """An image that nobody has seen, with a layer of some MB."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            member = tarfile.TarInfo("random")
            member.size = LAYER_MIB << 20
            tar.addfile(member, io.BytesIO(os.urandom(member.size)))
        buffer.seek(0)
        reference = f"{repository or self.repository}:{tag}"
        self.images.append(reference)
        self.engine.load_root(buffer, reference, ["CMD x", f"LABEL unique={unique()}"])
        self.images.append(self.engine.image_id(reference) or "")

    def push(self, tag: str, auth: dict[str, str], repository: str = "") -> None:
        self.engine.push(repository or self.repository, tag, auth)


@pytest.fixture
def pushing(engine: Engine, cloud: Cloud) -> Iterator[Pushing]:
    """The engine; the images that it was given are removed again."""
    made = Pushing(engine, cloud, [])
    yield made
    for reference in made.images:
        engine.remove_image(reference)


def login(ecr: Any) -> dict[str, str]:
    """What Docker is to be told, from a token of ECR."""
    data = ecr.get_authorization_token()["authorizationData"][0]
    name, _, token = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return {"username": name, "password": token}


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def manifest_of(cloud: Cloud, reference: str) -> httpx.Response:
    known = cloud.pull_credentials()
    return httpx.get(
        f"{cloud.url}/v2/hello/manifests/{reference}", auth=(known["username"], known["password"])
    )


def put(ecr: Any, manifest: str, tag: str) -> dict[str, Any]:
    answer = ecr.put_image(
        repositoryName="hello",
        imageManifest=manifest,
        imageManifestMediaType=json.loads(manifest)["mediaType"],
        imageTag=tag,
    )
    return dict(answer["image"])


def as_role(cloud: Cloud, name: str, actions: list[str], resource: str = "*") -> dict[str, str]:
    """The keys of somebody who assumed a new role with one policy."""
    iam = cloud.client("iam")
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resource}],
    }
    iam.put_role_policy(RoleName=name, PolicyName="it", PolicyDocument=json.dumps(policy))
    given = cloud.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="run")
    return {
        "aws_access_key_id": given["Credentials"]["AccessKeyId"],
        "aws_secret_access_key": given["Credentials"]["SecretAccessKey"],
        "aws_session_token": given["Credentials"]["SessionToken"],
    }


def test_what_is_pushed_is_pulled_by_its_digest_and_known_to_the_api(
    cloud: Cloud, ecr: Any, pushing: Pushing, engine: Engine
) -> None:
    pushing.new("one")
    pushed = engine.image_id(f"{pushing.repository}:one")
    pushing.push("one", login(ecr))

    [image] = ecr.describe_images(repositoryName="hello")["imageDetails"]
    digest = image["imageDigest"]
    assert image["imageTags"] == ["one"]
    [got] = ecr.batch_get_image(repositoryName="hello", imageIds=[{"imageTag": "one"}])["images"]
    served = manifest_of(cloud, "one")
    assert got["imageManifest"] == served.text
    assert got["imageManifestMediaType"] == served.headers["Content-Type"]
    assert got["imageId"]["imageDigest"] == digest == served.headers["Docker-Content-Digest"]
    assert digest == f"sha256:{hashlib.sha256(served.content).hexdigest()}"

    engine.remove_image(f"{pushing.repository}:one")
    pushing.images.append(f"{pushing.repository}@{digest}")
    cloud.faults.deny("ecr:GetDownloadUrlForLayer")
    with pytest.raises(SamebitsError, match="not authorized to perform: ecr:GetDownloadUrl"):
        engine.pull(f"{pushing.repository}@{digest}", login(ecr))
    cloud.faults.clear()
    engine.pull(f"{pushing.repository}@{digest}", cloud.pull_credentials())
    assert engine.image_id(f"{pushing.repository}@{digest}") == pushed


def test_an_account_begins_empty_and_names_this_server_as_registry(
    running_registry: RunningRegistry,
) -> None:
    for _ in range(2):
        with running_cloud(running_registry.block.address) as cloud:
            ecr = cloud.client("ecr")
            made = ecr.create_repository(repositoryName="a/b")["repository"]
            assert made["repositoryUri"] == f"{cloud.registry_host}/a/b"
            [data] = ecr.get_authorization_token()["authorizationData"]
            assert data["proxyEndpoint"] == cloud.url
    with running_cloud(running_registry.block.address, public_names=True) as cloud:
        made = cloud.client("ecr").create_repository(repositoryName="a/b")["repository"]
        assert made["repositoryUri"] == "123456789012.dkr.ecr.us-east-1.amazonaws.com/a/b"


def test_an_immutable_tag_is_refused_to_docker_and_to_the_api(
    cloud: Cloud, ecr: Any, pushing: Pushing
) -> None:
    text = "The image tag 'one' already exists in the 'hello' repository and cannot be overwritten"
    auth = login(ecr)
    for tag in ("one", "two"):
        pushing.new(tag)
        pushing.push(tag, auth)
    with pytest.raises(SamebitsError, match=text):  # also for the very same image
        pushing.push("one", auth)
    pushing.new("one")
    with pytest.raises(SamebitsError, match=text):
        pushing.push("one", auth)

    one, two = (manifest_of(cloud, tag).text for tag in ("one", "two"))
    with pytest.raises(ClientError, match=text) as error:
        put(ecr, two, "one")
    assert code_of(error) == "ImageTagAlreadyExistsException"
    with pytest.raises(ClientError, match="already exists in the repository") as error:
        put(ecr, one, "one")
    assert code_of(error) == "ImageAlreadyExistsException"
    assert manifest_of(cloud, "one").text == one


def test_the_api_tags_in_the_registry_and_a_moved_tag_leaves_its_image(
    cloud: Cloud, ecr: Any, pushing: Pushing
) -> None:
    ecr.put_image_tag_mutability(repositoryName="hello", imageTagMutability="MUTABLE")
    for tag in ("one", "two"):
        pushing.new(tag)
        pushing.push(tag, login(ecr))
    one, two = (manifest_of(cloud, tag) for tag in ("one", "two"))
    assert put(ecr, one.text, "stage")["imageId"]["imageTag"] == "stage"
    assert manifest_of(cloud, "stage").content == one.content
    put(ecr, two.text, "one")
    put(ecr, two.text, "stage")
    assert manifest_of(cloud, "one").content == manifest_of(cloud, "stage").content == two.content
    assert manifest_of(cloud, one.headers["Docker-Content-Digest"]).content == one.content
    by_digest = {
        image["imageDigest"]: set(image.get("imageTags", []))
        for image in ecr.describe_images(repositoryName="hello")["imageDetails"]
    }
    assert by_digest == {
        one.headers["Docker-Content-Digest"]: set(),
        two.headers["Docker-Content-Digest"]: {"one", "two", "stage"},
    }
    with pytest.raises(ClientError) as error:
        put(
            ecr,
            one.text.replace(json.loads(one.text)["config"]["digest"], f"sha256:{64 * '0'}"),
            "x",
        )
    assert code_of(error) == "LayersNotFoundException"


def test_an_absent_repository_is_refused(cloud: Cloud, ecr: Any, pushing: Pushing) -> None:
    absent = f"{cloud.registry_host}/absent"
    pushing.new("one", absent)
    with pytest.raises(SamebitsError, match="repository with name 'absent' does not exist"):
        pushing.push("one", login(ecr), absent)


def test_no_token_an_unknown_one_and_an_old_one_are_refused(cloud: Cloud, ecr: Any) -> None:
    auth = login(ecr)
    known = ("AWS", auth["password"])
    assert httpx.get(f"{cloud.url}/v2/", auth=known).status_code == 200
    for wrong in (None, ("AWS", "x"), ("root", auth["password"])):
        refused = httpx.get(f"{cloud.url}/v2/", auth=wrong)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
    cloud.faults.expire_tokens()
    expired = httpx.get(f"{cloud.url}/v2/", auth=known)
    assert (expired.status_code, expired.json()["errors"][0]["code"]) == (403, "DENIED")
    assert httpx.get(f"{cloud.url}/v2/", auth=("AWS", login(ecr)["password"])).is_success


def test_a_token_that_expires_in_mid_push_ends_the_push_and_a_new_one_completes_it(
    cloud: Cloud, ecr: Any, pushing: Pushing
) -> None:
    pushing.new("one")
    cloud.faults.expire_tokens_after("ecr:UploadLayerPart")
    with pytest.raises(SamebitsError, match="Your authorization token has expired"):
        pushing.push("one", login(ecr))
    assert not ecr.describe_images(repositoryName="hello")["imageDetails"]
    pushing.push("one", login(ecr))
    assert ecr.describe_images(repositoryName="hello")["imageDetails"]


@pytest.mark.parametrize("action", ["ecr:InitiateLayerUpload", "ecr:PutImage"])
def test_a_push_is_throttled_and_denied(
    cloud: Cloud, ecr: Any, pushing: Pushing, action: str
) -> None:
    pushing.new("one")
    cloud.faults.throttle(action)
    with pytest.raises(SamebitsError, match="toomanyrequests: Rate exceeded"):
        pushing.push("one", login(ecr))
    cloud.faults.deny(action)
    with pytest.raises(
        SamebitsError, match=f"not authorized to perform: {action} on resource: arn"
    ):
        pushing.push("one", login(ecr))
    cloud.faults.clear()
    pushing.push("one", login(ecr))


def test_a_push_meets_an_error_of_the_server(cloud: Cloud, ecr: Any, pushing: Pushing) -> None:
    pushing.new("one")
    cloud.faults.fail("ecr:PutImage", 503)
    with pytest.raises(SamebitsError, match="unexpected HTTP status: 503"):
        pushing.push("one", login(ecr))
    pushing.push("one", login(ecr))


@pytest.mark.parametrize(
    ("service", "method", "action", "throttled", "denied", "failed"),
    [
        ("ecs", "list_clusters", "ecs:ListClusters",
         ("ThrottlingException", 400), ("AccessDeniedException", 400), ("ServerException", 500)),
        ("cloudformation", "list_stacks", "cloudformation:ListStacks",
         ("Throttling", 400), ("AccessDenied", 403), ("InternalFailure", 500)),
    ],
)  # fmt: skip
def test_an_api_is_throttled_fails_and_is_denied(
    cloud: Cloud,
    service: str,
    method: str,
    action: str,
    throttled: tuple[str, int],
    denied: tuple[str, int],
    failed: tuple[str, int],
) -> None:
    call = getattr(cloud.client(service, config=AT_ONCE), method)
    text = f"User: arn:aws:iam::123456789012:user/admin is not authorized to perform: {action} "

    def refused() -> tuple[str, int]:
        with pytest.raises(ClientError) as error:
            call()
        answer = error.value.response
        if answer["Error"]["Code"] == denied[0]:
            assert answer["Error"]["Message"].startswith(text)
        return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]

    call()
    cloud.faults.throttle(action, 2)
    cloud.faults.fail(action)
    assert [refused() for _ in range(3)] == [throttled, throttled, failed]
    call()
    cloud.faults.deny(action)
    assert refused() == denied
    cloud.faults.clear()
    call()
    assert list(cloud.calls) == [("admin", action)] * 7


def test_a_role_that_does_not_exist_is_not_assumed(cloud: Cloud) -> None:
    arn = "arn:aws:iam::123456789012:role/none"
    with pytest.raises(
        ClientError, match=f"not authorized to perform: sts:AssumeRole on resource: {arn}"
    ) as error:
        cloud.client("sts").assume_role(RoleArn=arn, RoleSessionName="run")
    assert code_of(error) == "AccessDenied"


def test_a_role_does_what_its_policies_allow_and_nothing_else(
    cloud: Cloud, ecr: Any, pushing: Pushing
) -> None:
    keys = as_role(cloud, "pusher", [*PUSHES, "ecr:GetAuth*"])
    elsewhere = "arn:aws:ecr:us-east-1:123456789012:repository/other"
    strange = as_role(cloud, "stranger", ["ecr:*"], elsewhere)
    cloud.faults.enforce_policies()
    cloud.calls.clear()
    pushing.new("one")
    role = cloud.client("ecr", config=AT_ONCE, **keys)
    pushing.push("one", login(role))
    assert set(cloud.calls.actions("pusher")) == {*PUSHES, "ecr:GetAuthorizationToken"}

    cloud.client("sts", **keys).get_caller_identity()
    text = (
        "User: arn:aws:sts::123456789012:assumed-role/pusher/run is not authorized to perform: "
        "ecr:DescribeImages on resource: arn:aws:ecr:us-east-1:123456789012:repository/hello "
        "because no identity-based policy allows the ecr:DescribeImages action"
    )
    with pytest.raises(ClientError, match=text) as error:
        role.describe_images(repositoryName="hello")
    assert code_of(error) == "AccessDeniedException"
    with pytest.raises(ClientError, match="ecr:DescribeImages"):
        cloud.client("ecr", **strange).describe_images(repositoryName="hello")
    cloud.client("iam").delete_role_policy(RoleName="pusher", PolicyName="it")
    with pytest.raises(ClientError, match="ecr:GetAuthorizationToken"):
        login(role)


def test_a_token_is_worth_what_its_role_may_do(cloud: Cloud, ecr: Any, pushing: Pushing) -> None:
    without = [action for action in PUSHES if action != "ecr:PutImage"]
    keys = as_role(cloud, "half", [*without, "ecr:GetAuthorizationToken"])
    cloud.faults.enforce_policies()
    pushing.new("one")
    with pytest.raises(SamebitsError, match=r"denied: User: .*role/half/run .*ecr:PutImage"):
        pushing.push("one", login(cloud.client("ecr", **keys)))
    pushing.push("one", login(ecr))


def test_a_role_passes_only_the_roles_that_it_may_pass(cloud: Cloud) -> None:
    task = {
        "family": "it",
        "containerDefinitions": [{"name": "it", "image": "it"}],
        "executionRoleArn": "arn:aws:iam::123456789012:role/execution",
    }
    keys = as_role(cloud, "deployer", ["ecs:*"])
    cloud.faults.enforce_policies()
    with pytest.raises(ClientError, match=r"iam:PassRole on resource: arn:.*role/execution"):
        cloud.client("ecs", **keys).register_task_definition(**task)


def test_findings_are_those_of_the_scan(cloud: Cloud, ecr: Any, pushing: Pushing) -> None:
    pushing.new("one")
    pushing.push("one", login(ecr))
    digest = manifest_of(cloud, "one").headers["Docker-Content-Digest"]
    ask = {"repositoryName": "hello", "imageId": {"imageDigest": digest}}
    with pytest.raises(ClientError) as error:
        ecr.describe_image_scan_findings(**ask)
    assert code_of(error) == "ScanNotFoundException"
    cloud.set_findings("hello", digest, {}, status="IN_PROGRESS")
    assert "imageScanFindings" not in ecr.describe_image_scan_findings(**ask)
    cloud.set_findings("hello", digest, {"CRITICAL": 1, "HIGH": 3})
    ecr.get_waiter("image_scan_complete").wait(**ask)
    found = ecr.describe_image_scan_findings(**ask)["imageScanFindings"]
    assert found["findingSeverityCounts"] == {"CRITICAL": 1, "HIGH": 3}
    assert found["findings"][0]["severity"] == "CRITICAL"


def test_a_body_in_chunks_reaches_the_apis(cloud: Cloud) -> None:
    answer = httpx.post(
        cloud.url,
        content=(part for part in (b"Action=GetCaller", b"Identity&Version=2011-06-15")),
        headers={
            "Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/sts/aws4_request",
            "Content-Type": "application/x-www-form-urlencoded",
        },
    )
    assert "<Account>123456789012</Account>" in answer.text


def test_it_speaks_tls_where_it_is_given_a_certificate(
    running_registry: RunningRegistry, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_ssl_devcert(str(tmp_path / "it"), host="localhost"))
    with running_cloud(running_registry.block.address, ssl_context=context) as cloud:
        create = {"X-Amz-Target": "AmazonEC2ContainerRegistry_V20150921.CreateRepository"}
        scope = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/ecr/aws4_request"
        httpx.post(
            cloud.url,
            content='{"repositoryName": "hello"}',
            headers=create | {"Authorization": scope},
            verify=False,
        ).raise_for_status()
        known = cloud.pull_credentials()
        answer = httpx.post(
            f"{cloud.url}/v2/hello/blobs/uploads/",
            auth=(known["username"], known["password"]),
            verify=False,
        )
        assert answer.headers["Location"].startswith(f"{cloud.url}/v2/hello/blobs/uploads/")
