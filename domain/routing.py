"""Which deployment a push leads to."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from domain.commit import ANY_BRANCH, Commit
from domain.errors import BadInput


class Target(BaseModel):
    """Where a branch leads, as prefect.yaml says: repository, branch (or `*`) and stack."""

    model_config = ConfigDict(frozen=True)

    repository: str
    branch: str
    stack: str | None = None


class Route(Target):
    """A target, and the deployment of `pipeline` that leads there."""

    deployment_id: UUID


def check_mapping(targets: Iterable[Target]) -> None:
    """Raises BadInput for a branch with two deployments, or a stack that two branches lead to."""
    branches: dict[tuple[str, str], Target] = {}
    stacks: dict[str, Target] = {}
    for target in targets:
        if other := branches.get((target.repository, target.branch)):
            raise BadInput(
                f"{other.repository} has two deployments for the branch {other.branch}.",
                hint="Leave one of them in prefect.yaml.",
            )
        branches[target.repository, target.branch] = target
        if target.stack is None:
            continue
        if other := stacks.get(target.stack):
            raise BadInput(
                f"Two branches lead to the stack {target.stack}: {other.repository} "
                f"{other.branch} and {target.repository} {target.branch}.",
                why="Each would replace what the other deployed.",
                hint="Give each a stack of its own in prefect.yaml.",
            )
        stacks[target.stack] = target


def route(routes: Iterable[Route], repository: str, branch: str) -> Route | None:
    """The deployment for a branch: its own one, else the one for every other branch."""
    mine = {r.branch: r for r in routes if r.repository == repository}
    return mine.get(branch) or mine.get(ANY_BRANCH)


def idempotency_key(commit: Commit, found: Route) -> str:
    """One run for each commit on each branch.

    Prefect keeps keys unique for a flow, not for a deployment, so the deployment is in it too.
    """
    return f"{commit.repository}/{found.deployment_id}/{commit.branch}/{commit.sha}"


def run_tags(commit: Commit, stack: str | None) -> list[str]:
    """What a run can be filtered by in the UI."""
    return tags_of({"commit": commit.model_dump(), "stack": stack})


def repository_of(parameters: Mapping[str, Any]) -> str:
    """The repository of a run with these parameters; empty for one of `prune`."""
    commit = parameters.get("commit")
    named = commit.get("repository") if isinstance(commit, dict) else None
    return str(named or parameters.get("repository") or "")


def branch_to_build(parameters: Mapping[str, Any]) -> str:
    """The branch that a run with these parameters builds; empty for one that builds nothing."""
    commit = parameters.get("commit")
    named = commit.get("branch") if isinstance(commit, dict) else None
    return str(named or "")


def title_of(parameters: Mapping[str, Any]) -> str:
    """What a run with these parameters is called, of `pipeline` or of `redeploy`."""
    commit = parameters.get("commit")
    if commit:
        return Commit.model_validate(commit).title
    image = str(parameters.get("image", "")).removeprefix("sha256:")
    return f"{parameters.get('repository')} → {parameters.get('stack')} {image[:8]}"


def tags_of(parameters: Mapping[str, Any]) -> list[str]:
    """The tags of a run with these parameters, of `pipeline` or of `redeploy`."""
    commit = parameters.get("commit") or {}
    named = {
        "repository": repository_of(parameters),
        "branch": commit.get("branch"),
        "stack": parameters.get("stack"),
    }
    return [f"{name}:{value}" for name, value in named.items() if value]
