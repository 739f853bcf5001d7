"""Errors travel between processes, and say all that a person needs."""

import pickle

import pytest

from domain import errors
from domain.errors import LOG_MARK, LOG_TAIL_LINES, BadInput, BuildFailed, SamebitsError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SamebitsError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_same_after_it_was_pickled(kind: type[SamebitsError]) -> None:
    error = kind("What.", why="Why.", hint="Hint.", log=["one", "two"])
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is kind
    assert (same.what, same.why, same.hint, same.log) == ("What.", "Why.", "Hint.", ("one", "two"))
    assert str(same) == str(error)
    assert same.args == error.args
    assert same.retryable == kind.retryable


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_says_what_it_is(kind: type[SamebitsError]) -> None:
    assert kind.__doc__


def test_what_is_tried_again_heals_by_itself() -> None:
    assert {kind.__name__ for kind in KINDS if kind.retryable} == {
        "RepositoryUnreachable",
        "EngineUnavailable",
        "BaseImageUnavailable",
        "RegistryUnavailable",
        "TokenExpired",
        "AwsUnavailable",
        "Overtaken",
        "ServerUnavailable",
        "ChannelUnavailable",
    }


def test_the_text_of_an_error_is_all_of_it() -> None:
    error = BuildFailed("It failed.", hint="Mend it.", log=["a", "b"])
    assert str(error) == f"It failed. Mend it.\n{LOG_MARK}a\n{LOG_MARK}b"


def test_only_the_end_of_a_long_log_is_kept() -> None:
    error = BuildFailed("It failed.", log=[str(n) for n in range(1000)])
    assert error.log[-1] == "999"
    assert len(error.log) == LOG_TAIL_LINES


def test_each_line_of_a_log_carries_the_mark_even_one_of_a_progress_bar() -> None:
    error = BuildFailed("It failed.", log=["10 %\r20 %\rdone", "", "a\nb"])
    assert error.log == ("10 %", "20 %", "done", "", "a", "b")
    assert all(line.startswith(LOG_MARK) for line in str(error).splitlines()[1:])


def test_bad_input_is_a_value_error_so_that_pydantic_reports_it() -> None:
    assert issubclass(BadInput, ValueError)
