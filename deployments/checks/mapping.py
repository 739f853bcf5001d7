"""Deployments: what prefect.yaml says, what is applied, and what that leads to."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import DeploymentResponse

from blocks.inventory import Inventory, read_applied
from deployments.checks.checking import Scene
from deployments.provisioning import read_mapping
from domain.health import Finding, failed, ok, warning
from domain.routing import Route, check_mapping

DEPLOYMENTS, BRANCHES = "deployments", "branches"
_APPLY = "Apply it: make apply"
_SAME = ("entrypoint", "parameters")


async def check_deployments(scene: Scene, client: PrefectClient, file: Path) -> list[Finding]:
    """Whether what is applied is what the file says."""
    check_mapping(read_mapping(file))
    wanted = yaml.safe_load(await asyncio.to_thread(file.read_text))["deployments"]
    there = await read_applied(client)
    wrong = differences(wanted, there)
    if not wrong:
        return [ok(DEPLOYMENTS, f"{len(wanted)}, as {file.name} says")]
    said = f"{file.name} is not what is applied: {'; '.join(wrong)}."
    if scene.here:
        return [failed(DEPLOYMENTS, said, _APPLY)]
    return [warning(DEPLOYMENTS, said, f"Is {file} the file that this system uses?")]


def differences(wanted: Sequence[dict[str, Any]], there: Sequence[DeploymentResponse]) -> list[str]:
    """In what the applied deployments differ from the entries of the file."""
    applied = {deployment.name: deployment for deployment in there}
    named = {str(entry["name"]): entry for entry in wanted}
    missing = [f"{name} is missing" for name in named if name not in applied]
    more = [f"{name} is not in the file" for name in applied if name not in named]
    return (
        missing
        + more
        + [
            f"{name} has another {what}"
            for name, entry in named.items()
            if name in applied
            for what in _SAME
            if (getattr(applied[name], what) or {}) != (entry.get(what) or {})
        ]
    )


def check_branches(inventory: Inventory, routes: Sequence[Route]) -> list[Finding]:
    """Whether each repository leads somewhere, and each deployment to what is there."""
    found = [*_repositories(inventory, routes), *_stacks(inventory, routes)]
    if found:
        return found
    return [ok(BRANCHES, f"{len(routes)} entries, and each leads to what is there")]


def _repositories(inventory: Inventory, routes: Sequence[Route]) -> list[Finding]:
    named = {route.repository for route in routes}
    nowhere = [
        warning(
            BRANCHES,
            f"No deployment names the repository {name}: its commits lead nowhere.",
            "Add entries for it to prefect.yaml, then make apply; or delete its block.",
        )
        for name in inventory.repositories
        if name not in named
    ]
    return nowhere + [
        failed(
            BRANCHES,
            f"Deployments name the repository {name}, which has no block that loads.",
            "Create it in the Prefect UI, under Blocks; or correct prefect.yaml, then make apply.",
        )
        for name in sorted(named - set(inventory.repositories))
    ]


def _stacks(inventory: Inventory, routes: Sequence[Route]) -> list[Finding]:
    return [
        failed(
            BRANCHES,
            f"{r.branch} of {r.repository} leads to the stack {r.stack}, which has no block that "
            "loads.",
            "Create it in the Prefect UI, under Blocks; or correct prefect.yaml, then make apply.",
        )
        for r in routes
        if r.stack and r.stack not in inventory.stacks
    ]
