"""BuildKit's progress, from protobuf messages that are written here by hand."""

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.engine.buildkit import Progress
from tests.wild import quick

DONE = b"\x08\x01"  # a timestamp: one second


def varint(number: int) -> bytes:
    """An integer as protobuf writes it."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: bytes | int) -> bytes:
    """A field: its number, and bytes or an integer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def step(
    digest: str, name: str, *, cached: bool = False, done: bool = False, error: str = ""
) -> bytes:
    """A vertex of a StatusResponse."""
    body = field(1, digest.encode()) + field(2, b"input") + field(3, name.encode())
    body += field(4, 1) if cached else b""
    body += field(5, DONE)
    body += field(6, DONE) if done or cached or error else b""
    body += field(7, error.encode()) if error else b""
    return field(1, body)


def output(digest: str, text: bytes) -> bytes:
    """A log of a StatusResponse."""
    return field(3, field(1, digest.encode()) + field(2, DONE) + field(3, 1) + field(4, text))


def told(progress: Progress, *parts: bytes) -> list[str]:
    """The lines of one message that is made of these parts."""
    return list(progress.lines(base64.b64encode(b"".join(parts)).decode()))


def test_a_step_is_told_when_it_begins_and_when_it_is_done_and_not_again() -> None:
    progress = Progress()
    assert told(progress, step("a", "[1/2] FROM base")) == ["[1/2] FROM base"]
    assert told(progress, step("a", "[1/2] FROM base")) == []
    assert told(progress, step("a", "[1/2] FROM base", done=True)) == ["DONE [1/2] FROM base"]
    assert told(progress, step("a", "[1/2] FROM base", done=True)) == []


def test_a_step_from_the_cache_is_called_so() -> None:
    assert told(Progress(), step("a", "RUN make", cached=True)) == ["CACHED RUN make"]


def test_a_step_that_failed_is_not_called_done() -> None:
    progress = Progress()
    lines = told(progress, step("a", "RUN make")) + told(progress, step("a", "RUN make", error="2"))
    assert lines == ["RUN make"]


def test_what_the_builder_does_for_itself_is_not_told() -> None:
    assert told(Progress(), step("a", "[internal] load build context", done=True)) == []


def test_output_is_cut_into_whole_lines_wherever_the_messages_end() -> None:
    progress = Progress()
    assert told(progress, output("a", b"one\r\ntw")) == ["  one"]
    assert told(progress, output("a", b"o \xc3")) == []
    assert told(progress, output("a", b"\xbc\n\nthree\n")) == ["  two ü", "  ", "  three"]


def test_the_output_of_steps_that_run_at_the_same_time_is_not_mixed() -> None:
    progress = Progress()
    assert told(progress, output("a", b"I am "), output("b", b"You are ")) == []
    lines = told(progress, output("a", b"a\n"), output("b", b"b\n"))
    assert lines == ["  I am a", "  You are b"]


def test_the_last_line_of_a_step_is_told_even_without_an_end() -> None:
    progress = Progress()
    assert told(progress, output("a", b"fatal: ")) == []
    lines = told(progress, step("a", "RUN make", error="exit code 1"), output("a", b"boom"))
    assert lines == ["RUN make", "  fatal: boom"]


def test_bytes_that_are_no_text_are_told_as_far_as_it_goes() -> None:
    assert told(Progress(), output("a", b"\xff\xfe!\n")) == ["  \ufffd\ufffd!"]


def test_fields_that_are_not_needed_are_passed_over() -> None:
    fixed = varint(9 << 3 | 1) + b"12345678" + varint(10 << 3 | 5) + b"1234"
    assert told(Progress(), fixed, field(2, b"status"), field(99, 2**63), output("a", b"b\n")) == [
        "  b"
    ]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 3_000_000,  # an integer without an end
        b"\x80",
        b"\x0b",  # a group, which nobody writes any more
        field(1, b"\xff\xff"),
        field(1, b"abc")[:-2],
        varint(1 << 3 | 2) + varint(2**62),
        field(1, field(1, 7) + field(3, 7)),
    ],
)
def test_garbage_neither_hangs_nor_ends_the_build(garbage: bytes) -> None:
    progress = Progress()
    told(progress, garbage)
    assert told(progress, output("a", b"still here\n")) == ["  still here"]


def test_a_message_that_is_not_base64_is_passed_over() -> None:
    assert list(Progress().lines("a")) == []


def test_what_stands_before_the_garbage_is_told() -> None:
    assert told(Progress(), output("a", b"one\n"), b"\x0b") == ["  one"]


@quick
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_any_bytes_are_read_without_an_error(messages: list[bytes]) -> None:
    progress = Progress()
    for message in messages:
        assert all(isinstance(line, str) for line in told(progress, message, field(1, message)))


@quick
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_lines_are_the_same_however_the_output_is_cut(content: bytes, cuts: list[int]) -> None:
    whole = told(Progress(), output("a", content + b"\n"))
    progress, pieces, edges = Progress(), [], [0, *sorted(cuts), len(content)]
    for start, end in itertools.pairwise(edges):
        pieces += told(progress, output("a", content[start:end]))
    assert pieces + told(progress, output("a", b"\n")) == whole
