"""JUnit files come from code under test: they may be anything."""

from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.junit import TestCase, junit_table, parse_junit
from tests.wild import nasty, quick, text

PYTEST = b"""<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="1"
 tests="4" time="1.5">
<testcase classname="tests.test_hello" name="test_good[&lt;a&gt;]" time="0.002" />
<testcase classname="tests.test_hello" name="test_bad" time="1,200.5">
 <failure message="assert 1 == 2&#10;more">Traceback</failure></testcase>
<testcase classname="tests.test_hello" name="test_later"><skipped message="not now"/></testcase>
<testcase classname="tests.test_hello" name="test_broken" time="soon">
 <error>no message
 here</error></testcase>
</testsuite></testsuites>"""

LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a0 "ha">%s]>
<testsuite><testcase name="&a9;"/></testsuite>""" % b"".join(
    b'<!ENTITY a%d "%s">' % (n + 1, b"&a%d;" % n * 10) for n in range(9)
)
FILE = b"""<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/hostname">]>
<testsuite><testcase name="&x;"/></testsuite>"""
ONE = b"""<!DOCTYPE t [<!ENTITY x "ha">]><testsuite><testcase name="&x;"/></testsuite>"""


def test_the_tests_of_a_file_are_read_failed_ones_first() -> None:
    cases = parse_junit(PYTEST)
    prefix = "tests.test_hello · "
    assert cases == [
        TestCase(
            name=f"{prefix}test_bad", outcome="failed", seconds=1200.5, message="assert 1 == 2"
        ),
        TestCase(name=f"{prefix}test_broken", outcome="failed", seconds=0, message="no message"),
        TestCase(name=f"{prefix}test_good[<a>]", outcome="passed", seconds=0.002),
        TestCase(name=f"{prefix}test_later", outcome="skipped", seconds=0, message="not now"),
    ]


@pytest.mark.parametrize("hostile", [LAUGHS, FILE, ONE])
def test_a_file_with_entities_is_not_read(hostile: bytes) -> None:
    assert parse_junit(hostile) == []


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"junk",
        b"<testsuite><testcase name='a'>",
        b"<?xml version='1.0' encoding='nonsense'?><testsuite/>",
        b"\xff\xfe\x00",
        b"<testsuite><testcase name='&#xD800;'/></testsuite>",
        PYTEST[:-20],
    ],
)
def test_a_file_that_is_not_xml_holds_no_tests(broken: bytes) -> None:
    assert parse_junit(broken) == []


def test_a_test_without_a_name_or_a_time_is_a_test_all_the_same() -> None:
    (case,) = parse_junit(b"<testsuite><testcase/></testsuite>")
    assert case == TestCase(name="", outcome="passed", seconds=0)


def test_deep_nesting_does_not_end_the_run() -> None:
    deep = b"<a>" * 50_000 + b"<testcase name='x'/>" + b"</a>" * 50_000
    assert [case.name for case in parse_junit(deep)] == ["x"]


@quick
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_passed_over(content: bytes) -> None:
    assert isinstance(parse_junit(content), list)


def test_a_table_counts_and_shows_the_tests() -> None:
    table = junit_table(parse_junit(PYTEST))
    assert table.startswith("**1 passed, 2 failed, 1 skipped**\n\n| | test |")
    assert "| ❌ | tests.test\\_hello · test\\_bad | 1200.500 | assert 1 == 2 |" in table


@quick
@given(st.one_of(text, nasty), st.one_of(text, nasty))
def test_a_test_cannot_break_out_of_its_cell(name: str, message: str) -> None:
    case = TestCase(name=name, outcome="failed", seconds=0, message=message)
    (parsed,) = parse_junit(_written(case)) or [None]
    if parsed is None:
        return  # XML cannot hold every character
    row = junit_table([parsed]).split("\n\n")[1].splitlines()[2:]
    assert len(row) == 1
    bare = row[0].replace("\\\\", "").replace("\\|", "").replace("\\<", "").replace("\\`", "")
    assert bare.count("|") == 5
    assert "<" not in bare
    assert "`" not in bare


def test_a_table_of_very_many_tests_is_cut_and_says_so() -> None:
    cases = [TestCase(name=str(n), outcome="passed", seconds=0) for n in range(700)]
    table = junit_table(cases)
    assert table.count("| ✅ |") == 500
    assert table.endswith("… and 200 more")
    assert "**700 passed" in table


def _written(case: TestCase) -> bytes:
    return (
        f"<testsuite><testcase name={quoteattr(case.name)}>"
        f"<failure message={quoteattr(case.message)}/></testcase></testsuite>"
    ).encode()
