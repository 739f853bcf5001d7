"""Task definitions: the next revision, made from the one that runs. Pure."""

from collections.abc import Collection, Mapping
from typing import Any

from domain.errors import StackUnusable
from domain.image import PublishedImage, Serving

COMMIT_LABEL = "samebits.commit"
"""The Docker label of the container that says which commit a revision is of."""

_TASKS_LABEL = "samebits.tasks-before"

TaskDefinition = Mapping[str, Any]


def next_revision(
    current: TaskDefinition,
    container: str,
    image: PublishedImage,
    registrable: Collection[str],
    tasks_before: int | None = None,
) -> dict[str, Any]:
    """What RegisterTaskDefinition is to be told: the current revision with another image.

    `registrable` are the fields that it takes; DescribeTaskDefinition answers with more.
    `tasks_before` is how many tasks the service wanted, where this deploy makes it want more.
    """
    revision = {name: current[name] for name in current if name in registrable and name != "tags"}
    # Those that AWS itself has given (CloudFormation does) nobody else may give.
    # Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Tag.html
    tags = [t for t in current.get("tags", []) if not t["key"].lower().startswith("aws:")]
    if tags:
        revision["tags"] = tags
    revision["containerDefinitions"] = [
        _with_image(definition, image, tasks_before)
        if definition["name"] == container
        else definition
        for definition in current["containerDefinitions"]
    ]
    return revision


def _with_image(
    definition: Mapping[str, Any], image: PublishedImage, tasks_before: int | None
) -> dict[str, Any]:
    labels = {**definition.get("dockerLabels", {}), COMMIT_LABEL: image.commit.sha}
    labels.pop(_TASKS_LABEL, None)  # it was of another deploy
    if tasks_before is not None:
        labels[_TASKS_LABEL] = str(tasks_before)
    return {**definition, "image": image.reference, "dockerLabels": labels}


def tasks_before_of(revision: TaskDefinition, container: str) -> int | None:
    """The `tasks_before` that a revision was registered with."""
    label = definition_of(revision, container).get("dockerLabels", {}).get(_TASKS_LABEL, "")
    return int(label) if label.isdecimal() else None


def container_to_replace(current: TaskDefinition, wanted: str = "") -> str:
    """The name of the container whose image is replaced; raises StackUnusable where unclear."""
    names = [str(definition["name"]) for definition in current["containerDefinitions"]]
    if not wanted and len(names) == 1:
        return names[0]
    if wanted in names:
        return wanted
    family = current.get("family", "?")
    if not wanted:
        raise StackUnusable(
            f"The task definition {family} has {len(names)} containers: {', '.join(names)}.",
            why="Which of them runs the tested image is not said.",
            hint="Name it in the field container of the stack's block.",
        )
    raise StackUnusable(
        f"The task definition {family} has no container {wanted!r}.",
        hint=f"It has: {', '.join(names)}. Correct the field container of the stack's block.",
    )


def definition_of(current: TaskDefinition, container: str) -> Mapping[str, Any]:
    """The definition of one container."""
    found: list[Mapping[str, Any]] = current["containerDefinitions"]
    return next(definition for definition in found if definition["name"] == container)


def serving_of(current: TaskDefinition, container: str) -> Serving:
    """The digest that a revision runs (or its tag, where it names one), and of which commit."""
    definition = definition_of(current, container)
    image = str(definition["image"])
    digest = image.partition("@")[2] or image
    return Serving(digest=digest, sha=definition.get("dockerLabels", {}).get(COMMIT_LABEL, ""))
