"""JUnit files, as tests leave them: they come from code under test, and are taken for hostile."""

from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from pydantic import BaseModel, ConfigDict

from domain.names import one_line

_MOST_ROWS = 500


class TestCase(BaseModel):
    """One test: its name, `passed`, `failed` or `skipped`, its seconds, and what it said."""

    __test__ = False
    model_config = ConfigDict(frozen=True)

    name: str
    outcome: str
    seconds: float
    message: str = ""


def parse_junit(content: bytes) -> list[TestCase]:
    """The tests in a JUnit file, failed ones first; empty for a file that is none."""
    try:
        root = fromstring(content)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        return []
    cases = [_case(element) for element in root.iter("testcase")]
    return sorted(cases, key=lambda case: case.outcome != "failed")


def junit_table(cases: list[TestCase]) -> str:
    """The tests as a Markdown table."""
    count = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for case in cases:
        count[case.outcome] += 1
    rows = [
        f"| {_SIGNS[case.outcome]} | {_cell(case.name)} | {case.seconds:.3f} "
        f"| {_cell(case.message)} |"
        for case in cases[:_MOST_ROWS]
    ]
    summary = ", ".join(f"{number} {outcome}" for outcome, number in count.items())
    more = f"\n\n… and {len(cases) - _MOST_ROWS} more" if len(cases) > _MOST_ROWS else ""
    head = ["| | test | seconds | message |", "|---|---|---:|---|"]
    return f"**{summary}**\n\n" + "\n".join(head + rows) + more


_SIGNS = {"passed": "✅", "failed": "❌", "skipped": "⏭️"}


def _case(element: Element) -> TestCase:
    bad = next((child for child in element if child.tag in ("failure", "error")), None)
    skipped = element.find("skipped")
    told = bad if bad is not None else skipped
    names = [element.get("classname", ""), element.get("name", "")]
    try:
        seconds = float(element.get("time", "0").replace(",", ""))
    except ValueError:
        seconds = 0.0
    return TestCase(
        name=one_line(" · ".join(name for name in names if name), 200),
        outcome="failed" if bad is not None else "skipped" if skipped is not None else "passed",
        seconds=seconds,
        message=one_line((told.get("message") or told.text or "") if told is not None else "", 200),
    )


def _cell(text: str) -> str:
    for character in "\\`|<>[]*_":
        text = text.replace(character, f"\\{character}")
    return text
