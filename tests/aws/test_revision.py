"""The next revision of a task definition: the same, with another image."""

from typing import Any

import pytest

from blocks.aws.revision import container_to_replace, next_revision, serving_of, tasks_before_of
from domain.commit import Commit
from domain.errors import StackUnusable
from domain.image import PublishedImage

DIGEST = f"sha256:{'1' * 64}"
IMAGE = PublishedImage(
    commit=Commit(repository="hello", branch="master", sha="a" * 40),
    image_id=DIGEST,
    repository="registry/hello",
    digest=DIGEST,
)
REGISTRABLE = ("family", "containerDefinitions", "cpu", "tags")


def definition(*containers: str) -> dict[str, Any]:
    made = [
        {"name": name, "image": f"{name}:old", "dockerLabels": {"a": "b"}} for name in containers
    ]
    return {
        "family": "hello",
        "cpu": "256",
        "tags": [{"key": "team", "value": "web"}],
        "containerDefinitions": made,
        "revision": 3,
        "status": "ACTIVE",
    }


def test_only_the_image_and_the_commit_of_one_container_change() -> None:
    current = definition("web", "sidecar")
    web, sidecar = current["containerDefinitions"]
    assert next_revision(current, "web", IMAGE, REGISTRABLE) == {
        "family": "hello",
        "cpu": "256",
        "tags": [{"key": "team", "value": "web"}],
        "containerDefinitions": [
            {
                **web,
                "image": f"registry/hello@{DIGEST}",
                "dockerLabels": {"a": "b", "samebits.commit": "a" * 40},
            },
            sidecar,
        ],
    }
    assert current == definition("web", "sidecar")


def test_how_many_tasks_were_wanted_is_remembered_until_the_next_deploy() -> None:
    first = next_revision(definition("web"), "web", IMAGE, REGISTRABLE, tasks_before=0)
    assert tasks_before_of(first, "web") == 0
    second = next_revision(first, "web", IMAGE, REGISTRABLE)
    assert tasks_before_of(second, "web") is None
    (web,) = second["containerDefinitions"]
    assert web["dockerLabels"] == {"a": "b", "samebits.commit": "a" * 40}


@pytest.mark.parametrize("label", ["", "-1", "many", "1.5"])
def test_a_label_that_is_no_number_of_tasks_says_nothing(label: str) -> None:
    current = definition("web")
    current["containerDefinitions"][0]["dockerLabels"] = {"samebits.tasks-before": label}
    assert tasks_before_of(current, "web") is None


def test_tags_that_aws_has_given_are_left_out_for_it_alone_may_give_them() -> None:
    theirs = [
        {"key": "aws:cloudformation:stack-name", "value": "samebits"},
        {"key": "AWS:x", "value": ""},
    ]
    current = definition("web")
    own = current["tags"]
    assert next_revision(current | {"tags": theirs + own}, "web", IMAGE, REGISTRABLE)["tags"] == own
    assert "tags" not in next_revision(current | {"tags": theirs}, "web", IMAGE, REGISTRABLE)


def test_what_a_revision_runs_is_read_back_from_it() -> None:
    current = definition("web")
    assert serving_of(current, "web").model_dump() == {"digest": "web:old", "sha": ""}
    made = next_revision(current, "web", IMAGE, REGISTRABLE)
    assert serving_of(made, "web").model_dump() == {"digest": DIGEST, "sha": "a" * 40}


@pytest.mark.parametrize(("containers", "wanted"), [(("web",), ""), (("web", "b"), "web")])
def test_the_container_is_the_only_one_or_the_one_that_is_named(
    containers: tuple[str, ...], wanted: str
) -> None:
    assert container_to_replace(definition(*containers), wanted) == "web"


@pytest.mark.parametrize(
    ("containers", "wanted", "message"),
    [
        (("web", "sidecar"), "", "2 containers: web, sidecar"),
        (("web", "sidecar"), "other", "no container 'other'.*web, sidecar"),
        (("web",), "other", "no container 'other'.*web"),
    ],
)
def test_an_unclear_container_is_an_error_that_lists_them(
    containers: tuple[str, ...], wanted: str, message: str
) -> None:
    with pytest.raises(StackUnusable, match=message):
        container_to_replace(definition(*containers), wanted)
