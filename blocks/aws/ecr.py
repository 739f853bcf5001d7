"""Amazon ECR as a registry: short-lived logins, immutable tags, scans.

Source: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_Operations.html
"""

import base64
import binascii
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from botocore.exceptions import ClientError
from prefect.blocks.core import Block
from prefect_aws import AwsCredentials
from pydantic import ConfigDict, Field

from blocks.aws.connection import Aws
from blocks.aws.faults import aws_faults, code_of
from blocks.aws.scan import Scan, scan_of
from blocks.contracts import ImageRegistry, Log
from domain.errors import (
    AlreadyPublished,
    ImageVanished,
    RegistryRefused,
    RepositoryMissing,
    VulnerableImage,
)
from domain.findings import Findings, Severity
from domain.image import Manifest, PublishedImage

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

_MEDIA_TYPES = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
]
_POLL_SECONDS = 2.0
# ECR does not promise that the worst come first. Of enhanced scanning a page has 100 at most.
_PAGE_SIZE, _MOST_PAGES = 1000, 30
_BARE_SECONDS = 60.0
"""How long an answer is doubted that says that the scan is done, and nothing of what it found"""
_MOST_TOLD = 12


class EcrRegistry(ImageRegistry, Block):
    """A private registry of Amazon ECR: where tested images are published."""

    _block_type_name = "Samebits: ECR registry"
    _block_type_slug = "samebits-ecr-registry"
    _description = "Amazon ECR: the registry that tested images are published to."
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    credentials: AwsCredentials = Field(
        description="Region, and the role that publishes",
        examples=[
            {
                "region_name": "eu-west-1",
                "assume_role_arn": "arn:aws:iam::123456789012:role/samebits-publish",
            }
        ],
    )
    namespace: str = Field(
        default="",
        pattern=r"^(?:[a-z0-9]+(?:[._/-][a-z0-9]+)*)?$",
        description="Path before the repository's name",
        examples=["my-team"],
    )
    account_id: str = Field(
        default="",
        pattern=r"^(?:\d{12})?$",
        description="Account that the repositories are in; without it the role's own",
        examples=["123456789012"],
    )
    refuse_severity: Severity | None = Field(
        default=None,
        description="Deploy refuses an image in which the scan found this severity, or a worse one",
        examples=["CRITICAL"],
    )
    scan_timeout_seconds: int = Field(
        default=300,
        ge=0,
        description="How long deploy waits for the scan, where refuse_severity is set",
        examples=[600],
    )

    def repository(self, name: str) -> str:
        """The repository's URI, by ECR's own word; raises RepositoryMissing."""
        full = "/".join(part for part in (self.namespace, name) if part)
        with self._ecr(full) as (ecr, account):
            found = ecr.describe_repositories(repositoryNames=[full], **account)
        if not found["repositories"]:
            raise self._missing(full)
        return found["repositories"][0]["repositoryUri"]

    def auth(self) -> dict[str, str]:
        """A login that lasts 12 hours at most; a new one on each call."""
        with aws_faults("logging in to ECR"):
            given = self._client.get_authorization_token()
        token = given["authorizationData"][0]["authorizationToken"]
        try:
            user, _, password = base64.b64decode(token).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise RegistryRefused("ECR gave a login that cannot be read.") from error
        return {"username": user, "password": password}

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """The manifest of a tag or digest, with the digest that ECR calls it by; None for none."""
        found = self._image(repository, reference)
        if found is None:
            return None
        config = json.loads(found["imageManifest"]).get("config") or {}
        return Manifest(digest=found["imageId"]["imageDigest"], config_digest=config.get("digest"))

    def mark_deployed(self, image: PublishedImage, stack: str) -> None:
        """Tag the digest `STACK-SHA`, without a pull: the lifecycle rule keeps what has such a tag.

        No tag is ever moved, so the repository's tags may be immutable.
        """
        tag = f"{stack}-{image.commit.sha}"
        there = self._image(image.repository, tag)
        if there is None:
            self._put_tag(image, tag)
            there = self._image(image.repository, tag)
        digest = there["imageId"]["imageDigest"] if there else None
        if digest != image.digest:
            raise AlreadyPublished(
                f"{image.repository}:{tag} is {digest}, not {image.digest}, which {stack} runs.",
                why="Somebody else has given that tag to another image.",
                hint=f"{stack} serves {image.digest}. Remove the tag in ECR, then retry the run.",
            )

    def admit(self, image: PublishedImage, log: Log) -> None:
        """Wait for the scan, and refuse what it found; only where refuse_severity is set."""
        # Without the permission to look, that is said now, before anything is changed.
        scan = self._scan(image)
        if self.refuse_severity is None:
            return
        scan = self._once_over(image, scan, log)
        if not scan.done:
            raise VulnerableImage(
                f"ECR has no scan of {image.reference}: {scan.state}.",
                why=f"refuse_severity is {self.refuse_severity}, so an image without one is "
                "refused.",
                hint=scan.remedy,
            )
        findings = scan.findings
        if bad := findings.at_least(self.refuse_severity):
            raise VulnerableImage(
                f"The scan of {image.reference} found {findings.summary}.",
                why=f"{bad} of these are {self.refuse_severity} or worse, which the registry's "
                "block refuses.",
                hint="Push a commit with a newer base image or packages.",
                log=[
                    f"{f.severity.lower()} {f.name} {f.url}".rstrip()
                    for f in findings.worst(self.refuse_severity)[:_MOST_TOLD]
                ],
            )
        log(f"The scan is complete, with {findings.summary}: admitted")

    def _once_over(self, image: PublishedImage, scan: Scan, log: Log) -> Scan:
        """The scan when it has come to its end, or after scan_timeout_seconds.

        One that stays bare is taken for that of a clean image, which may never look otherwise.
        """
        deadline, bare_since = time.monotonic() + self.scan_timeout_seconds, math.inf
        while not scan.over and (now := time.monotonic()) < deadline:
            bare_since = min(bare_since, now) if scan.bare else math.inf
            if now - bare_since >= _BARE_SECONDS:
                log(f"For {_BARE_SECONDS:g} s ECR has said: {scan.state}; taken for nothing found")
                return replace(scan, bare=False)
            time.sleep(_POLL_SECONDS)
            scan = self._scan(image)
        return scan

    def findings(self, image: PublishedImage) -> Findings | None:
        """What the scan has found by now; None where ECR has no result."""
        scan = self._scan(image)
        return scan.findings if scan.done else None

    def _scan(self, image: PublishedImage) -> Scan:
        """The scan of an image by now."""
        name = _name(image.repository)
        with self._ecr(name) as (ecr, account):
            try:
                pages = ecr.get_paginator("describe_image_scan_findings").paginate(
                    repositoryName=name,
                    imageId={"imageDigest": image.digest},
                    PaginationConfig={"PageSize": _PAGE_SIZE},
                    **account,
                )
                return scan_of(islice(pages, _MOST_PAGES))
            except ecr.exceptions.ScanNotFoundException:
                return Scan()

    def _image(self, repository: str, reference: str) -> Any:
        """An image as ECR describes it, with its manifest; None where there is none."""
        name = _name(repository)
        kind = "imageDigest" if reference.startswith("sha256:") else "imageTag"
        with self._ecr(name) as (ecr, account):
            answer = ecr.batch_get_image(
                repositoryName=name,
                imageIds=[{kind: reference}],  # type: ignore[misc]
                acceptedMediaTypes=_MEDIA_TYPES,
                **account,
            )
        if answer["images"]:
            return answer["images"][0]
        for failure in answer.get("failures", []):
            if failure.get("failureCode") not in ("ImageNotFound", "ImageTagDoesNotMatchDigest"):
                raise RegistryRefused(
                    f"ECR does not give {repository} {reference}.",
                    why=f"{failure.get('failureCode')}: {failure.get('failureReason')}",
                )
        return None

    def _put_tag(self, image: PublishedImage, tag: str) -> None:
        found = self._image(image.repository, image.digest)
        if found is None:
            raise ImageVanished(
                f"ECR no longer has {image.reference}.",
                why="Somebody, or a lifecycle rule, deleted it.",
                hint="Push a new commit.",
            )
        name = _name(image.repository)
        with self._ecr(name) as (ecr, account):
            try:
                ecr.put_image(
                    repositoryName=name,
                    imageManifest=found["imageManifest"],
                    imageManifestMediaType=found["imageManifestMediaType"],
                    imageTag=tag,
                    imageDigest=image.digest,
                    **account,
                )
            except ClientError as error:
                # Another run was faster; the caller looks which digest the tag has now.
                if "AlreadyExists" not in code_of(error):
                    raise

    @contextmanager
    def _ecr(self, name: str) -> Iterator[tuple["ECRClient", dict[str, Any]]]:
        """A client for calls about a repository, and the account of the repository."""
        account = {"registryId": self.account_id} if self.account_id else {}
        where = f" in account {self.account_id}" if self.account_id else ""
        with aws_faults(f"asking ECR about {name}{where}"):
            try:
                yield self._client, account
            except ClientError as error:
                if code_of(error) == "RepositoryNotFoundException":
                    raise self._missing(name) from error
                raise

    def _missing(self, name: str) -> RepositoryMissing:
        where = f"account {self.account_id}" if self.account_id else "the role's own account"
        return RepositoryMissing(
            f"ECR has no repository {name!r} in {where}, region {self.credentials.region_name}.",
            hint="Create it (examples/aws/template.yaml does), or correct namespace, account_id or "
            "the region in the registry's block.",
        )

    @cached_property
    def _client(self) -> "ECRClient":
        """One for the life of this block, which is loaded anew for each step."""
        return Aws(self.credentials).ecr()


def _name(repository: str) -> str:
    """A repository's name in ECR: its URI without the host."""
    return repository.partition("/")[2]
