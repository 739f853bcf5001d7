"""The actions of ECR's API that moto answers otherwise than ECR does."""

import base64
import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from werkzeug.wrappers import Response

from tests.aws.ecr import Images, Refused, Tokens, digest_of, find_image, find_repository
from tests.aws.faults import ACCOUNT, Caller, json_error


class EcrApi:
    """Tokens, images put by their manifest, and what their scans found."""

    def __init__(self, images: Images, tokens: Tokens, endpoint: str) -> None:
        self._images, self._tokens, self._endpoint = images, tokens, endpoint
        self.findings: dict[tuple[str, str], dict[str, Any]] = {}

    def answer(self, action: str, given: Mapping[str, Any], caller: Caller) -> Response | None:
        """The answer; None where moto is to give it, of repositories that are there."""
        registry = given.get("registryId") or ACCOUNT
        try:
            if action.startswith("ecr:") and action != "ecr:CreateRepository":
                for name in repositories_of(given):
                    find_repository(name, registry)
            if action == "ecr:GetAuthorizationToken":
                return _json({"authorizationData": [self._token(caller)]})
            if action == "ecr:PutImage":
                return _json({"image": self._put(given, registry)})
            if action == "ecr:DescribeImageScanFindings":
                found = self._describe(given["repositoryName"], given["imageId"], registry)
                return _json(found)
        except Refused as refused:
            return json_error(400, refused.code, str(refused))
        return None

    def _token(self, caller: Caller) -> dict[str, Any]:
        token, end = self._tokens.issue(caller)
        return {
            "authorizationToken": base64.b64encode(f"AWS:{token}".encode()).decode(),
            "expiresAt": end,
            "proxyEndpoint": self._endpoint,
        }

    def _put(self, given: Mapping[str, Any], registry: str) -> dict[str, Any]:
        """Source: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_PutImage.html"""
        name, text, tag = given["repositoryName"], given["imageManifest"], given.get("imageTag")
        repository = find_repository(name, registry)
        media_type = given.get("imageManifestMediaType") or json.loads(text).get("mediaType")
        if not media_type:
            raise Refused("InvalidParameterException", "The manifest has no media type")
        digest = digest_of(text.encode())
        if given.get("imageDigest", digest) != digest:
            why = "The specified digest does not match the digest of the manifest"
            raise Refused("ImageDigestDoesNotMatchException", why)
        known = find_image(repository, digest)
        if known and (tag is None or tag in known.image_tags):
            raise Refused(
                "ImageAlreadyExistsException",
                f"Image with digest '{digest}' and tag '{tag}' already exists in the repository "
                f"with name '{name}' in registry with id '{registry}'",
            )
        answer = self._images.put(repository, tag, text.encode(), {"Content-Type": media_type})
        with contextlib.closing(answer):
            if answer.status_code != 201:
                raise Refused("LayersNotFoundException", answer.get_data(as_text=True).strip())
        return {
            "registryId": registry,
            "repositoryName": name,
            "imageId": {"imageDigest": digest} | ({"imageTag": tag} if tag else {}),
            "imageManifest": text,
            "imageManifestMediaType": media_type,
        }

    def _describe(self, name: str, image_id: Mapping[str, str], registry: str) -> dict[str, Any]:
        repository = find_repository(name, registry)
        digest, tag = image_id.get("imageDigest"), image_id.get("imageTag")
        image = find_image(repository, digest or tag or "")
        shown = f"{{imageDigest:'{digest or 'null'}', imageTag:'{tag or 'null'}'}}"
        where = f"the repository with name '{name}' in the registry with id '{registry}'"
        if not image:
            why = f"The image with imageId {shown} does not exist within {where}"
            raise Refused("ImageNotFoundException", why)
        found = self.findings.get((name, image.image_digest))
        if not found:
            why = f"Image scan does not exist for the image with '{shown}' in {where}"
            raise Refused("ScanNotFoundException", why)
        return {
            "registryId": registry,
            "repositoryName": name,
            "imageId": {**image_id, "imageDigest": image.image_digest},
            **found,
        }


def repositories_of(given: Mapping[str, Any]) -> list[str]:
    """The names of the repositories that a call is about."""
    one = given.get("repositoryName")
    return [one] if one else given.get("repositoryNames") or []


def _json(answer: Mapping[str, Any]) -> Response:
    return Response(json.dumps(answer), content_type="application/x-amz-json-1.1")


def scan_result(counts: Mapping[str, int], status: str) -> dict[str, Any]:
    """The part of DescribeImageScanFindings that a scan has filled, with up to 3 of each severity.

    Source:
    https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_DescribeImageScanFindings.html
    """
    state = {"status": status, "description": "Told by ECR"}
    result: dict[str, Any] = {"imageScanStatus": state}
    if status == "COMPLETE":
        severities = [severity for severity, count in counts.items() for _ in range(min(count, 3))]
        names = [f"CVE-2024-{number:04}" for number in range(1, len(severities) + 1)]
        result["imageScanFindings"] = {
            "imageScanCompletedAt": time.time(),
            "findingSeverityCounts": dict(counts),
            "findings": [
                {
                    "name": name,
                    "severity": severity,
                    "uri": f"https://nvd.nist.gov/vuln/detail/{name}",
                }
                for name, severity in zip(names, severities, strict=True)
            ],
        }
    return result
