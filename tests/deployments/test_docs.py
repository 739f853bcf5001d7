"""The documentation against the code: the example configuration, each field, each error."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.blocks.core import Block
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from blocks import all as blocks
from blocks.prefect_api import POOL
from deployments.provisioning import PROJECT
from deployments.settings import SystemSettings
from domain import errors
from domain.commit import Commit
from domain.names import checked_name
from domain.settings import BuildSettings, Settings, TestSettings

DOCS = PROJECT / "docs"
REAL = PROJECT / "prefect.yaml"
EXAMPLE = DOCS / "example-prefect.yaml"
AWS = PROJECT / "examples" / "aws" / "prefect.yaml"
each_file = pytest.mark.parametrize(
    "file", [REAL, EXAMPLE, AWS], ids=lambda file: str(file.relative_to(PROJECT))
)
BLOCKS = [getattr(blocks, name) for name in blocks.__all__]
FLOWS = {"flows.pipeline.pipeline", "flows.redeploy.redeploy", "flows.prune.prune"}


def deployments_of(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text())["deployments"]
    return found


def pipelines_of(file: Path) -> list[dict[str, Any]]:
    return [d["parameters"] for d in deployments_of(file) if "commit" in d["parameters"]]


@each_file
def test_every_deployment_has_a_name_of_its_own_and_parameters_that_its_flow_takes(
    file: Path,
) -> None:
    found = deployments_of(file)
    names = [deployment["name"] for deployment in found]
    assert len(names) == len(set(names))
    for deployment in found:
        assert deployment["entrypoint"] in FLOWS
        assert deployment["work_pool"] == {"name": POOL}
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    for parameters in pipelines_of(file):
        Commit.model_validate(parameters["commit"])
        Settings.model_validate(parameters.get("settings", {}))
        if "stack" in parameters:
            checked_name(parameters["stack"])


@each_file
def test_each_repository_has_one_deployment_a_branch_one_for_the_others_and_a_redeploy(
    file: Path,
) -> None:
    branches: dict[str, list[str]] = {}
    for parameters in pipelines_of(file):
        commit = parameters["commit"]
        branches.setdefault(commit["repository"], []).append(commit["branch"])
        assert ("stack" in parameters) == (commit["branch"] != "*")
    for names in branches.values():
        assert len(names) == len(set(names))
        assert "*" in names
    redeploys = [d["parameters"] for d in deployments_of(file) if "redeploy" in d["entrypoint"]]
    assert redeploys == [{"repository": repository} for repository in branches]


@each_file
def test_no_two_repositories_lead_to_the_same_stack(file: Path) -> None:
    owners = {(p["stack"], p["commit"]["repository"]) for p in pipelines_of(file) if "stack" in p}
    assert len(owners) == len({stack for stack, _ in owners})


def test_the_branches_of_the_example_lead_where_the_readme_says() -> None:
    leads = {p["commit"]["branch"]: p.get("stack") for p in pipelines_of(REAL)}
    assert leads == {"master": "stage", "release": "prod", "*": None}


def test_the_example_configuration_holds_all_of_the_real_one() -> None:
    example = deployments_of(EXAMPLE)
    assert [deployment for deployment in deployments_of(REAL) if deployment not in example] == []


def test_the_configuration_of_aws_differs_from_the_real_one_in_the_names_of_the_stacks() -> None:
    def without_stacks(file: Path) -> list[dict[str, Any]]:
        found = deployments_of(file)
        for deployment in found:
            deployment.pop("description")
            deployment["parameters"].pop("stack", None)
        return found

    assert without_stacks(AWS) == without_stacks(REAL)
    assert [p.get("stack") for p in pipelines_of(AWS)] == ["aws-stage", "aws-prod", None]


def test_the_example_configuration_shows_every_field_of_the_settings() -> None:
    shown = [p["settings"] for p in pipelines_of(EXAMPLE) if p["commit"]["branch"] == "main"]
    assert set(shown[0]) == set(Settings.model_fields)
    assert set(shown[0]["build"]) == set(BuildSettings.model_fields)
    assert set(shown[0]["test"]) == set(TestSettings.model_fields)


@pytest.mark.parametrize(
    ("heading", "model", "form"),
    [
        *((block._block_type_name, block, "{}") for block in BLOCKS),
        ("The system", SystemSettings, "SAMEBITS_{}"),
        ("settings", Settings, "{}"),
        ("settings.build", BuildSettings, "{}"),
        ("settings.test", TestSettings, "{}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_field_stands_in_the_documentation_with_its_default(
    heading: str, model: type[BaseModel], form: str
) -> None:
    rows = rows_of(DOCS / "configuration.md", heading)
    names = {
        form.format(n if form == "{}" else n.upper()): f for n, f in model.model_fields.items()
    }
    assert set(rows) == set(names)
    for name, field in names.items():
        assert rows[name] == default_of(field), name


def test_every_error_stands_in_the_documentation() -> None:
    text = (DOCS / "operating.md").read_text()
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SamebitsError)
    ]
    missing = [kind.__name__ for kind in kinds if f"`{kind.__name__}`" not in text]
    assert missing == ["SamebitsError"]


@pytest.mark.parametrize(
    "page", [PROJECT / "README.md", *DOCS.glob("*.md")], ids=lambda page: page.name
)
def test_every_link_of_the_documentation_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def default_of(field: FieldInfo) -> str:
    """A field's default as the documentation writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if isinstance(value, Path):
        return "`.samebits`"
    if isinstance(value, Block):
        return "the worker's"
    if isinstance(value, BaseModel):
        return "see below"
    if field is SystemSettings.model_fields["runs_at_once"]:
        return "one for each core"
    return "none" if value in (None, "", {}) else f"`{json.dumps(value).strip(chr(34))}`"


def rows_of(page: Path, heading: str) -> dict[str, str]:
    """The rows of the table under a heading: the name in the first column to the second one."""
    _, _, below = page.read_text().partition(f"## {heading}\n")
    section = below.partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))
