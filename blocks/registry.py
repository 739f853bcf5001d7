"""The room of an image registry that speaks the OCI distribution protocol.

Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, field_validator

from blocks.contracts import ImageRegistry
from blocks.prefect_tls import tls
from domain.errors import RegistryRefused, RegistryUnavailable
from domain.image import Manifest
from domain.names import one_line

_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json"
)


class Registry(ImageRegistry, Block):
    """An image registry: where tested images are published."""

    _block_type_name = "Samebits: registry"
    _block_type_slug = "samebits-registry"
    _description = "The image registry that tested images are published to."
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    address: str = Field(
        description="Host and port of the registry, without https://",
        examples=["127.0.0.1:4250", "registry.example.com"],
    )
    namespace: str = Field(
        default="", description="Path before the repository's name", examples=["my-team"]
    )
    username: str = Field(default="", description="User; empty for none", examples=["ci"])
    password: SecretStr = Field(
        default=SecretStr(""), description="Password or token of the user", examples=["…"]
    )

    @field_validator("address")
    @classmethod
    def _host_only(cls, address: str) -> str:
        if not address or "/" in address or "@" in address:
            raise ValueError("give only host and port, e.g. registry.example.com")
        return address

    def repository(self, name: str) -> str:
        """The full name of a repository here: `registry/namespace/name`."""
        return "/".join(part for part in (self.address, self.namespace.strip("/"), name) if part)

    def auth(self) -> dict[str, str] | None:
        """What the engine is told when it pushes or pulls."""
        if not self.username:
            return None
        return {"username": self.username, "password": self.password.get_secret_value()}

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """The manifest of a tag or digest, None where there is none.

        The digest is the registry's own word (Docker-Content-Digest).
        """
        path = repository.removeprefix(f"{self.address}/")
        with self._client() as client:
            answer = client.get(f"/v2/{path}/manifests/{reference}", headers={"Accept": _MANIFESTS})
        if answer.status_code == 404:
            return None
        _check(answer, repository)
        try:
            config: dict[str, Any] = answer.json().get("config") or {}
            return Manifest(
                digest=answer.headers["Docker-Content-Digest"], config_digest=config.get("digest")
            )
        except (ValueError, KeyError, AttributeError) as error:
            raise RegistryRefused(
                f"{self.address} answered for {repository}, but not with a manifest.",
                why=one_line(answer.text, 100),
                hint="Check that the address in the block is that of a registry.",
            ) from error

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        scheme = "http" if is_loopback(self.address) else "https"
        auth = (self.username, self.password.get_secret_value()) if self.username else None
        try:
            with httpx.Client(
                base_url=f"{scheme}://{self.address}",
                auth=auth,
                timeout=30,
                follow_redirects=True,
                verify=tls(),
            ) as client:
                yield client
        except httpx.TransportError as error:
            raise RegistryUnavailable(
                f"The registry {self.address} does not answer.",
                why=one_line(f"{type(error).__name__}: {error}", 200),
                hint="Check that it runs and that the address in its block is right.",
            ) from error


def _check(answer: httpx.Response, repository: str) -> None:
    code = answer.status_code
    if code < 400:
        return
    if code in (408, 429) or code >= 500:
        raise RegistryUnavailable(f"The registry answered {code} for {repository}.")
    raise RegistryRefused(
        f"The registry answered {code} for {repository}.",
        why=one_line(answer.text, 200),
        hint="Check user, password and permissions in the registry's block.",
    )


def is_loopback(address: str) -> bool:
    """Whether Docker, too, would talk to this address without TLS."""
    host = address.rpartition(":")[0] or address
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
