"""ECR's scan of an image, read from its answer. Pure.

Source: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_DescribeImageScanFindings.html
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.findings import Finding, Findings, Severity
from domain.names import one_line

_DONE = ("COMPLETE", "ACTIVE")
_UNDER_WAY = ("", "PENDING", "IN_PROGRESS", "NOT STARTED")
_MOST_SHOWN = 20
_LATE = "Turn scan on push on in ECR, or raise scan_timeout_seconds; then retry."
_NOTHING = Findings(counts={})
_ORDER = [str(severity) for severity in Severity]
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
    bare: bool = False
    """Said to be done, with nothing that only a scan can know: no finding, no count, no time.

    Enhanced scanning answers so for a while before it has its findings.
    Source: https://github.com/aws/aws-sdk/issues/289
    """

    @property
    def done(self) -> bool:
        """Whether it has found what there is."""
        return self.status in _DONE and not self.bare

    @property
    def over(self) -> bool:
        """Whether waiting changes nothing any more."""
        return self.status not in _UNDER_WAY and not self.bare

    @property
    def state(self) -> str:
        """Its status and why, in words."""
        if self.bare:
            return f"{self.status}, but without a finding, a count or a time"
        reason = f" ({one_line(self.reason, 300).rstrip('.')})" if self.reason else ""
        return f"{self.status or 'none was started'}{reason}"

    @property
    def remedy(self) -> str:
        """What to do where it has no result."""
        return _REMEDIES.get(self.status, _LATE)


def scan_of(pages: Iterable[Mapping[str, Any]]) -> Scan:
    """What DescribeImageScanFindings answered, page by page, of basic or of enhanced scanning."""
    state: Mapping[str, Any] = {}
    told, some, completed = Counter[str](), list[Finding](), None
    for page in pages:
        state, scan = page.get("imageScanStatus", {}), page.get("imageScanFindings", {})
        told |= Counter(scan.get("findingSeverityCounts", {}))
        completed = completed or scan.get("imageScanCompletedAt")
        some += _findings(scan)
    # Where counts are missing, or those of one page alone, the findings themselves count.
    counts = dict(told | Counter(finding.severity for finding in some))
    some.sort(key=lambda f: _ORDER.index(f.severity) if f.severity in _ORDER else len(_ORDER))
    status = state.get("status", "")
    bare = status in _DONE and not (completed or counts)
    findings = Findings(counts=counts, some=tuple(some[:_MOST_SHOWN]))
    return Scan(status, state.get("description", ""), findings, bare)


def _findings(scan: Mapping[str, Any]) -> list[Finding]:
    basic, enhanced = scan.get("findings", []), scan.get("enhancedFindings", [])
    return [
        *(
            Finding(name=f.get("name", "?"), severity=_severity(f), url=f.get("uri", ""))
            for f in basic
        ),
        *(Finding(name=f.get("title", "?"), severity=_severity(f)) for f in enhanced),
    ]


def _severity(finding: Mapping[str, Any]) -> str:
    return str(finding.get("severity", "?"))
