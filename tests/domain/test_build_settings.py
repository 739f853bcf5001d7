"""How a repository is built and tested, and when two builds are the same."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.settings import BuildSettings, Settings, TestSettings
from tests.wild import quick, shas, text

TREE = "f" * 40
builds = st.builds(
    BuildSettings,
    dockerfile=st.sampled_from(["Dockerfile", "docker/Dockerfile"]),
    target=st.one_of(st.none(), text),
    args=st.dictionaries(text, text, max_size=3),
)


def test_without_settings_the_dockerfile_is_built_and_make_test_is_run() -> None:
    settings = Settings()
    assert settings.build.dockerfile == "Dockerfile"
    assert settings.test.command == ("make", "test")


@quick
@given(one=builds, other=builds, tree=shas, trusted=st.booleans())
def test_builds_have_the_same_key_only_if_they_are_the_same(
    one: BuildSettings, other: BuildSettings, tree: str, *, trusted: bool
) -> None:
    key = one.key("hello", tree, trusted=trusted)
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert (key == other.key("hello", tree, trusted=trusted)) == (one == other)
    assert key != one.key("hello", tree, trusted=not trusted)
    assert key != one.key("hell", "o" + tree, trusted=trusted)


def test_the_order_of_arguments_and_the_time_limit_do_not_change_a_key() -> None:
    one = BuildSettings(args={"A": "1", "B": "2"}, timeout_seconds=1)
    other = BuildSettings(args={"B": "2", "A": "1"}, timeout_seconds=2)
    assert one.key("hello", TREE, trusted=True) == other.key("hello", TREE, trusted=True)


def test_an_argument_cannot_be_made_to_look_like_two() -> None:
    one = BuildSettings(args={"A": '1", "B", "2'})
    two = BuildSettings(args={"A": "1", "B": "2"})
    assert one.key("hello", TREE, trusted=True) != two.key("hello", TREE, trusted=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dockerfile": "../Dockerfile"},
        {"dockerfile": "/etc/passwd"},
        {"dockerfile": "."},
        {"timeout_seconds": 0},
        {"secrets": {"A": "1"}},
    ],
)
def test_build_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BuildSettings.model_validate(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"command": []}, {"command": "make test"}, {"timeout_seconds": 0}, {"memory_mib": 1}],
)
def test_test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TestSettings.model_validate(wrong)
