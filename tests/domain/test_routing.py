"""Which deployment a push leads to, and that it leads there once."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commit import ANY_BRANCH, Commit
from domain.errors import BadInput
from domain.routing import (
    Route,
    Target,
    branch_to_build,
    check_mapping,
    idempotency_key,
    route,
    run_tags,
    title_of,
)
from tests.wild import branches, quick, shas

MASTER = Route(deployment_id=UUID(int=1), repository="hello", branch="master", stack="stage")
OTHERS = Route(deployment_id=UUID(int=2), repository="hello", branch=ANY_BRANCH)
ELSEWHERE = Route(deployment_id=UUID(int=3), repository="other", branch="release", stack="prod")
ROUTES = [OTHERS, MASTER, ELSEWHERE]


def test_a_branch_leads_to_its_own_deployment() -> None:
    assert route(ROUTES, "hello", "master") == MASTER


@pytest.mark.parametrize("commit", [None, "master", {}, {"branch": None}])
def test_what_names_no_branch_of_a_commit_builds_none(commit: object) -> None:
    assert branch_to_build({"commit": commit, "branch": "master"}) == ""
    assert branch_to_build({"commit": {"branch": "master"}}) == "master"


def test_every_other_branch_leads_to_the_deployment_for_any_branch() -> None:
    assert route(ROUTES, "hello", "feature/ü") == OTHERS
    assert route(ROUTES, "hello", "release") == OTHERS


def test_a_branch_that_no_deployment_is_for_leads_nowhere() -> None:
    assert route(ROUTES, "other", "master") is None
    assert route(ROUTES, "unknown", "master") is None
    assert route([], "hello", "master") is None


@quick
@given(st.lists(st.tuples(branches, shas), min_size=2, max_size=2, unique=True))
def test_two_commits_never_share_an_idempotency_key(pushes: list[tuple[str, str]]) -> None:
    keys = {
        idempotency_key(Commit(repository="hello", branch=branch, sha=sha), found)
        for branch, sha in pushes
        for found in (MASTER, OTHERS)
    }
    assert len(keys) == 4


def test_the_same_commit_has_the_same_idempotency_key_whatever_else_is_known_of_it() -> None:
    bare = Commit(repository="hello", branch="master", sha="1" * 40)
    told = bare.model_copy(update={"subject": "Fix", "author": "A"})
    assert idempotency_key(bare, MASTER) == idempotency_key(told, MASTER)


def test_a_run_is_tagged_by_repository_branch_and_stack() -> None:
    commit = Commit(repository="hello", branch="master")
    assert run_tags(commit, "stage") == ["repository:hello", "branch:master", "stack:stage"]
    assert run_tags(commit, None) == ["repository:hello", "branch:master"]


def target(repository: str, branch: str, stack: str | None = None) -> Target:
    return Target(repository=repository, branch=branch, stack=stack)


def test_a_mapping_in_which_each_branch_and_each_stack_stands_once_is_sound() -> None:
    check_mapping(
        [
            target("a", "master", "stage"),
            target("a", "*"),
            target("b", "*"),
            target("b", "x", "b-x"),
        ]
    )


def test_a_stack_that_two_branches_lead_to_is_refused() -> None:
    with pytest.raises(BadInput, match="Two branches lead to the stack stage: a master and b x"):
        check_mapping([target("a", "master", "stage"), target("b", "x", "stage")])


def test_a_branch_with_two_deployments_is_refused() -> None:
    with pytest.raises(BadInput, match="two deployments for the branch master"):
        check_mapping([target("a", "master", "stage"), target("a", "master")])


def test_a_run_is_called_by_what_it_is_of() -> None:
    commit = Commit(repository="hello", branch="master", sha="a" * 40, subject="Say hello")
    assert title_of({"commit": commit.model_dump(), "stack": "stage"}) == commit.title
    assert title_of({"commit": {"repository": "hello", "branch": "master"}}) == "master head"
    redeploy = {"repository": "hello", "stack": "prod", "image": "sha256:" + "d" * 64}
    assert title_of(redeploy) == "hello → prod dddddddd"
