"""ECR's scan of an image, read from its answer. Pure.

Source: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_DescribeImageScanFindings.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.findings import Finding, Findings, Severity
from domain.names import one_line

_DONE = ("COMPLETE", "ACTIVE")
_UNDER_WAY = ("", "PENDING", "IN_PROGRESS", "NOT STARTED")
_MOST_SHOWN = 20
_LATE = "Turn scan on push on in ECR, or raise scan_timeout_seconds; then retry."
_NOTHING = Findings(counts={})
_REMEDIES = {
    "FAILED": "Start a scan of it in ECR (aws ecr start-image-scan), then retry.",
    "UNSUPPORTED_IMAGE": "ECR cannot scan an image of this kind: build on a base image that it "
    "knows, or empty refuse_severity in the registry's block.",
}


@dataclass(frozen=True)
class Scan:
    """A scan by now: its status (ECR's word, empty for none) and reason, and what it found."""

    status: str = ""
    reason: str = ""
    findings: Findings = _NOTHING

    @property
    def done(self) -> bool:
        """Whether it has found what there is."""
        return self.status in _DONE

    @property
    def over(self) -> bool:
        """Whether waiting changes nothing any more."""
        return self.status not in _UNDER_WAY

    @property
    def state(self) -> str:
        """Its status and why, in words."""
        reason = f" ({one_line(self.reason, 300).rstrip('.')})" if self.reason else ""
        return f"{self.status or 'none was started'}{reason}"

    @property
    def remedy(self) -> str:
        """What to do where it has no result."""
        return _REMEDIES.get(self.status, _LATE)


def scan_of(answer: Mapping[str, Any]) -> Scan:
    """What DescribeImageScanFindings answered, of basic or of enhanced scanning."""
    state, scan = answer.get("imageScanStatus", {}), answer.get("imageScanFindings", {})
    some = [
        Finding(name=f.get("name", "?"), severity=f.get("severity", "?"), url=f.get("uri", ""))
        for f in scan.get("findings", [])
    ] + [
        Finding(name=f.get("title", "?"), severity=f.get("severity", "?"))
        for f in scan.get("enhancedFindings", [])
    ]
    order = [str(severity) for severity in Severity]
    some.sort(key=lambda f: order.index(f.severity) if f.severity in order else len(order))
    counts = scan.get("findingSeverityCounts", {})
    findings = Findings(counts=counts, some=tuple(some[:_MOST_SHOWN]))
    return Scan(state.get("status", ""), state.get("description", ""), findings)
