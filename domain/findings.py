"""What the registry's scan found in an image."""

import re
from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from domain.names import one_line

_ADDRESS = re.compile(r"https://[^\s()<>|\\]+\Z")


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
        return sum(self.counts.get(s, 0) for s in _as_bad_as(severity))

    def worst(self, severity: Severity) -> list[Finding]:
        """Those of the findings shown that are as bad as this, or worse."""
        return [finding for finding in self.some if finding.severity in _as_bad_as(severity)]

    @property
    def summary(self) -> str:
        """All in one line: `1 critical, 3 high`; `nothing found`."""
        known = [str(severity) for severity in Severity]
        others = sorted(name for name in self.counts if name not in known)
        counted = [(name, self.counts.get(name, 0)) for name in [*known, *others]]
        return ", ".join(f"{n} {name.lower()}" for name, n in counted if n) or "nothing found"

    def markdown(self) -> str:
        """A table of the worst, for a page in the UI."""
        rows = [f"| {_cell(f.severity.lower())} | {_link(f)} |" for f in self.some]
        table = ["", "| severity | finding |", "| --- | --- |", *rows] if rows else []
        return "\n".join([f"The registry's scan: {self.summary}.", *table])


def _as_bad_as(severity: Severity) -> list[Severity]:
    order = list(Severity)
    return order[: order.index(severity) + 1]


def _link(finding: Finding) -> str:
    name = _cell(finding.name)
    return f"[{name}]({finding.url})" if _ADDRESS.match(finding.url) else name


def _cell(text: str) -> str:
    """A text of the registry as one cell of a table, and nothing else."""
    text = one_line(text, 200)
    for character in "\\`|<>[]*_":
        text = text.replace(character, f"\\{character}")
    return text
