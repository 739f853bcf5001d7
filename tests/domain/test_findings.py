"""What a scan found: counted, summed up, shown."""

import re

import pytest

from domain.findings import Finding, Findings, Severity

COUNTS = {"CRITICAL": 1, "HIGH": 2, "MEDIUM": 4, "LOW": 8, "INFORMATIONAL": 16, "UNTRIAGED": 32}


@pytest.mark.parametrize(
    ("severity", "count"),
    [(Severity.CRITICAL, 1), (Severity.HIGH, 3), (Severity.MEDIUM, 7), (Severity.LOW, 15)],
)
def test_a_severity_counts_what_is_as_bad_or_worse(severity: Severity, count: int) -> None:
    assert Findings(counts=COUNTS).at_least(severity) == count
    assert Findings(counts={}).at_least(severity) == 0


def test_the_worst_are_those_as_bad_as_a_severity_or_worse() -> None:
    some = tuple(Finding(name=name, severity=name) for name in ("CRITICAL", "HIGH", "LOW", "?"))
    findings = Findings(counts=COUNTS, some=some)
    assert [f.name for f in findings.worst(Severity.CRITICAL)] == ["CRITICAL"]
    assert [f.name for f in findings.worst(Severity.LOW)] == ["CRITICAL", "HIGH", "LOW"]


def test_what_has_no_known_severity_is_never_bad_enough() -> None:
    assert Findings(counts={"INFORMATIONAL": 3, "UNTRIAGED": 1}).at_least(Severity.LOW) == 0


def test_the_summary_begins_with_the_worst() -> None:
    assert Findings(counts=dict(reversed(COUNTS.items()))).summary == (
        "1 critical, 2 high, 4 medium, 8 low, 16 informational, 32 untriaged"
    )


@pytest.mark.parametrize("counts", [{}, {"CRITICAL": 0, "UNDEFINED": 0}])
def test_nothing_found_is_said_as_that(counts: dict[str, int]) -> None:
    findings = Findings(counts=counts)
    assert findings.summary == "nothing found"
    assert findings.markdown() == "The registry's scan: nothing found."


def test_the_table_links_each_finding_to_where_it_is_described() -> None:
    cve = Finding(name="CVE-2026-1", severity="HIGH", url="https://nvd.nist.gov/CVE-2026-1")
    text = Findings(counts={"HIGH": 1}, some=(cve,)).markdown()
    assert text.splitlines() == [
        "The registry's scan: 1 high.",
        "",
        "| severity | finding |",
        "| --- | --- |",
        "| high | [CVE-2026-1](https://nvd.nist.gov/CVE-2026-1) |",
    ]


@pytest.mark.parametrize("url", ["", "javascript:alert(1)", "http://plain.example"])
def test_only_an_https_address_becomes_a_link(url: str) -> None:
    cve = Finding(name="CVE-2026-1", severity="LOW", url=url)
    assert "| low | CVE-2026-1 |" in Findings(counts={"LOW": 1}, some=(cve,)).markdown()


@pytest.mark.parametrize(
    "finding",
    [
        Finding(name="a | b\n| c |", severity="LOW"),
        Finding(name="a](https://evil.example)[b", severity="LOW", url="https://good.example"),
        Finding(name="a", severity="LOW", url="https://good.example/ |\n# b) [x](y"),
        Finding(name="a\\", severity="LOW", url="https://good.example/)[x](https://evil.example"),
        Finding(name="a", severity="LOW | x\n"),
        Finding(name="<img src=x>`", severity="LOW"),
    ],
)
def test_no_text_of_a_finding_breaks_out_of_its_cell(finding: Finding) -> None:
    [row] = Findings(counts={"LOW": 1}, some=(finding,)).markdown().splitlines()[4:]
    plain = re.sub(r"\\.", "", row)  # without what is escaped
    assert plain.count("|") == 3
    assert not set(plain) & set("<>`")
    assert set(re.findall(r"\]\((.*?)\)", plain)) <= {"https://good.example"}
