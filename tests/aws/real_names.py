"""ECR under its real names: a program for `unshare --mount --net --pid --fork --mount-proc`.

In namespaces of its own, AWS's host names lead to the tests' account here, which listens on port
443 and shows a certificate of a CA of its own; the SDK and the engine are told that CA, and nothing
else. Nothing leaves the machine, and all that is started or written ends with this program. Its
last line is the reference of what was published.
"""

import datetime as dt
import faulthandler
import fcntl
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prefect_aws import AwsCredentials

from blocks.aws import EcrRegistry
from blocks.engine import DockerHost, Engine
from domain.image import PublishedImage
from tests.aws.cloud import Cloud, running_cloud
from tests.aws.ecr import PUBLIC_HOST
from tests.aws.faults import REGION
from tests.aws.publishing import Publishing
from tests.waiting import wait_until

FOLDER = Path("/run/real-names")
CA = FOLDER / "ca.pem"
LIMIT_SECONDS = 55
ENGINE = f"unix://{FOLDER}/docker.sock"
REGISTRY = "127.0.0.1:5000"
# Docker would let any certificate pass, and plain HTTP, for what is at 127.0.0.0/8; this is an
# address for documentation, which is this machine's own in here. Source: RFC 5737
ADDRESS = "192.0.2.1"
NAMES = [
    PUBLIC_HOST,
    f"api.ecr.{REGION}.amazonaws.com",
    f"sts.{REGION}.amazonaws.com",
    "iam.amazonaws.com",
]
REPOSITORY = "hello"
# From linux/sockios.h and linux/if.h.
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8913, 0x8914, 0x8916, 1


def main() -> None:
    # Also where nobody waits for this program any more.
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
    with ExitStack() as stack:
        context = prepare()
        start(stack, "docker-registry", ["serve", registry_configuration()])
        start(stack, "dockerd", engine_arguments(), SSL_CERT_FILE=str(CA))
        wait_until(_registry_answers, 20, "the registry")
        wait_until(lambda: Path(ENGINE.removeprefix("unix://")).exists(), 30, "the engine")
        os.environ |= {"AWS_CA_BUNDLE": str(CA), "DOCKER_HOST": ENGINE}
        cloud = stack.enter_context(
            running_cloud(REGISTRY, host=ADDRESS, port=443, public_names=True, ssl_context=context)
        )
        engine = stack.enter_context(Engine(DockerHost()))
        print(shown(cloud, engine).reference)


def shown(cloud: Cloud, engine: Engine) -> PublishedImage:
    """Publish an image, pull it by its digest, and tag it there."""
    registry, images = EcrRegistry(credentials=credentials(cloud)), Publishing(engine)
    image = images.image(REPOSITORY)
    published = images.publish(registry, image)
    assert published.reference.startswith(f"{PUBLIC_HOST}/{REPOSITORY}@sha256:"), published

    images.forget(published)
    engine.pull(published.reference, registry.auth())
    assert engine.image_id(published.reference) == image.image_id

    registry.mark_deployed(published, "stage")
    tagged = registry.manifest(published.repository, f"stage-{image.commit.sha}")
    assert tagged, "ECR does not know the tag of the stack"
    assert tagged.digest == published.digest
    return published


def credentials(cloud: Cloud) -> AwsCredentials:
    """The block of a role that may use one repository, in an account that has both."""
    by_name = {"endpoint_url": None}
    made = cloud.client("ecr", **by_name).create_repository(
        repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE"
    )
    iam = cloud.client("iam", **by_name)
    role = iam.create_role(RoleName="publish", AssumeRolePolicyDocument="{}")["Role"]
    arn = made["repository"]["repositoryArn"]
    allowed = [
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {"Effect": "Allow", "Action": "ecr:*", "Resource": arn},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
    iam.put_role_policy(RoleName="publish", PolicyName="it", PolicyDocument=policy)
    cloud.faults.enforce_policies()
    return AwsCredentials(
        region_name=REGION,
        aws_access_key_id="AKIAWORKER0000000000",
        aws_secret_access_key="secret",
        assume_role_arn=role["Arn"],
    )


def prepare() -> ssl.SSLContext:
    """Make this namespace's own network, files and names; returns what the account shows."""
    bring_up("lo")
    add_address("lo:1", ADDRESS)
    # With a /run of its own, no program here finds an engine or containerd of the machine.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    FOLDER.mkdir()
    hosts = FOLDER / "hosts"
    hosts.write_text("".join(f"{ADDRESS} {name}\n" for name in NAMES))
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    return certified(NAMES)


def bring_up(interface: str) -> None:
    """Source: https://man7.org/linux/man-pages/man7/netdevice.7.html"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", interface.encode(), 0)
        [flags] = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        request = struct.pack("16sH14x", interface.encode(), flags | _IFF_UP)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)


def add_address(alias: str, address: str) -> None:
    """Give an alias of an interface an IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        known = struct.pack(
            "16sHH4s8x", alias.encode(), socket.AF_INET, 0, socket.inet_aton(address)
        )
        fcntl.ioctl(control, _SIOCSIFADDR, known)


def certified(names: Sequence[str]) -> ssl.SSLContext:
    """A new CA, and a server's certificate of it for these names."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA of a test")])
    ca = _certificate(issuer, issuer, ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=0))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server of a test")])
    known_as = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    own = _certificate(subject, issuer, key, ca_key, known_as)
    CA.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    file = FOLDER / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + own.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now, hour = dt.datetime.now(dt.UTC), dt.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .sign(issuer_key, hashes.SHA256())
    )


def registry_configuration() -> str:
    """The file of a registry that keeps everything in the folder."""
    file = FOLDER / "registry.yml"
    storage = {"filesystem": {"rootdirectory": f"{FOLDER}/registry"}}
    settings = {"version": "0.1", "storage": storage, "http": {"addr": REGISTRY}}
    file.write_text(json.dumps(settings))
    return str(file)


def engine_arguments() -> list[str]:
    """A private engine: no network, no firewall rules, nothing of the machine's own settings."""
    settings = FOLDER / "daemon.json"
    settings.write_text("{}")
    return [
        f"--config-file={settings}",
        f"--host={ENGINE}",
        f"--data-root={FOLDER}/docker",
        f"--exec-root={FOLDER}/exec",
        f"--pidfile={FOLDER}/docker.pid",
        "--storage-driver=vfs",
        "--bridge=none",
        "--iptables=false",
        "--ip-forward=false",
    ]


def start(stack: ExitStack, program: str, arguments: list[str], **environment: str) -> None:
    """Start a program that ends with the stack; its output is shown if this program fails."""
    log = FOLDER / f"{program}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *arguments],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def end(kind: type[BaseException] | None, *_: object) -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if kind:
            print(f"--- {program}\n{log.read_text(errors='replace')[-4000:]}", file=sys.stderr)

    stack.push(end)


def _registry_answers() -> bool:
    host, _, port = REGISTRY.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


if __name__ == "__main__":
    main()
