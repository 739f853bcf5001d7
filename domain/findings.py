"""What the registry's scan found in an image."""

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Severity(StrEnum):
    """How bad a finding is, the worst first; Amazon ECR's words."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


class Finding(BaseModel):
    """One finding: its name, e.g. CVE-2026-1234, and where it is described."""

    model_config = ConfigDict(frozen=True)

    name: str
    severity: str
    url: str = ""


class Findings(BaseModel):
    """The result of a scan: how many of each severity, and some of them."""

    model_config = ConfigDict(frozen=True)

    counts: Mapping[str, int]
    """Number of findings by severity, ECR's words; what is not named has none"""
    some: tuple[Finding, ...] = ()

    def at_least(self, severity: Severity) -> int:
        """How many are as bad as this, or worse."""
        order = list(Severity)
        return sum(self.counts.get(s, 0) for s in order[: order.index(severity) + 1])

    @property
    def summary(self) -> str:
        """All in one line: `1 critical, 3 high`; `nothing found`."""
        known = [str(severity) for severity in Severity]
        others = sorted(name for name in self.counts if name not in known)
        counted = [(name, self.counts.get(name, 0)) for name in [*known, *others]]
        return ", ".join(f"{n} {name.lower()}" for name, n in counted if n) or "nothing found"

    def markdown(self) -> str:
        """A table of the worst, for a page in the UI."""
        rows = [f"| {f.severity.lower()} | {_link(f)} |" for f in self.some]
        table = ["", "| severity | finding |", "| --- | --- |", *rows] if rows else []
        return "\n".join([f"The registry's scan: {self.summary}.", *table])


def _link(finding: Finding) -> str:
    name = finding.name.replace("|", "")
    return f"[{name}]({finding.url})" if finding.url.startswith("https://") else name
