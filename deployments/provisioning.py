"""What a Prefect server is given before the first run: work pool, blocks, deployments."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import WorkPool
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr, ValidationError

from blocks.all import DockerHost, DockerStack, GitHubRepository, Registry, SlackChannel
from blocks.aws import AwsCredentials
from blocks.forms import show_form_of
from blocks.loading import load_if_there
from blocks.named import REGISTRIES, STACKS
from blocks.prefect_api import POOL, delete_deployments_but, prefect_api
from blocks.registry import is_loopback
from blocks.repository import DEFAULT_REGISTRY
from deployments import example, host_images
from deployments.environment import child_environment
from deployments.processes import answers
from deployments.service import CHANNEL
from deployments.settings import SystemSettings
from deployments.warm.worker import WarmWorker
from domain.commit import Commit
from domain.errors import BadInput, ServerUnavailable, StartFailed, explained
from domain.names import one_line
from domain.routing import Target, check_mapping
from domain.settings import Settings
from flows.steps import ENGINE

PROJECT = Path(__file__).parent.parent


async def provision(settings: SystemSettings) -> None:
    """Make what is missing; what a person has changed in the UI stays."""
    async with prefect_api() as client:
        await _work_pool(client)
        for name, block in default_blocks(settings):
            await _keep_or_save(client, name, block)
    await apply_deployments(settings)


def default_blocks(settings: SystemSettings) -> list[tuple[str, Block]]:
    """The blocks of the embedded default, by name."""
    example.create(settings)
    stack: dict[str, Any] = {
        "prefix": settings.name,
        "switch_image": host_images.haproxy().name,
        "health_timeout_seconds": 30,
    }
    return [
        (ENGINE, DockerHost()),
        (DEFAULT_REGISTRY, Registry(address=f"127.0.0.1:{settings.registry_port}")),
        (CHANNEL, SlackChannel()),
        ("stage", DockerStack(port=settings.stage_port, **stack)),
        ("prod", DockerStack(port=settings.prod_port, **stack)),
        (
            example.NAME,
            GitHubRepository(
                url=str(example.bare_repository(settings)),
                webhook_secret=SecretStr(example.webhook_secret(settings)),
            ),
        ),
    ]


async def apply_deployments(
    settings: SystemSettings, file: Path = PROJECT / "prefect.yaml"
) -> None:
    """Make the deployments just those of the file, and the UI's forms those of the packages."""
    names = await asyncio.to_thread(_deploy_all, settings, file)
    async with prefect_api() as client:
        await show_form_of(client, AwsCredentials)
        # What the file does not name any more must not go on leading somewhere.
        await delete_deployments_but(client, names)


def _deploy_all(settings: SystemSettings, file: Path) -> set[str]:
    """Deploy what the file names, by Prefect's own command; returns the names."""
    check_mapping(read_mapping(file))
    if not answers(f"{settings.api_url}/ready"):
        raise ServerUnavailable(
            f"Prefect's API does not answer at {settings.api_url}.",
            hint="Is `make up` running, with the same SAMEBITS_PREFECT_PORT?",
        )
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file],
        cwd=file.parent,
        env=child_environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StartFailed(
            f"{file.name} could not be applied.",
            hint="Correct it; what prefect deploy said:",
            log=(done.stdout + done.stderr).splitlines(),
        )
    return {entry["name"] for entry in yaml.safe_load(file.read_text())["deployments"]}


def read_mapping(file: Path) -> list[Target]:
    """Where each branch leads, as the file says. Raises BadInput where it is wrong."""
    try:
        pipelines = [
            (entry["name"], entry["parameters"])
            for entry in yaml.safe_load(file.read_text())["deployments"]
            if "commit" in (entry.get("parameters") or {})
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{file} cannot be read.", why=one_line(str(error), 300), hint="Correct it."
        ) from error
    return [_target(name, parameters) for name, parameters in pipelines]


def _target(name: str, parameters: dict[str, Any]) -> Target:
    try:
        commit = Commit.model_validate(parameters["commit"])
        Settings.model_validate(parameters.get("settings") or {})
        stack = parameters.get("stack")
        return Target(repository=commit.repository, branch=commit.branch, stack=stack)
    except ValidationError as error:
        raise BadInput(
            f"prefect.yaml: the deployment {name} is wrong.",
            why="; ".join(explained(error)),
            hint="docs/configuration.md says what each field takes.",
        ) from None


async def _work_pool(client: PrefectClient) -> None:
    template = WarmWorker.get_default_base_job_template()
    # Whoever may start a run must not choose the command or the folder that runs on the host.
    template["variables"]["properties"] = {}
    template["variables"]["additionalProperties"] = False
    template["job_configuration"] = {"stream_output": True}
    try:
        there = await client.read_work_pool(POOL)
    except ObjectNotFound:
        there = None
    if there and there.type != WarmWorker.type:
        await _remove(client, there)
        there = None
    if there:
        await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
    else:
        await client.create_work_pool(
            WorkPoolCreate(name=POOL, type=WarmWorker.type, base_job_template=template)
        )


async def _remove(client: PrefectClient, pool: WorkPool) -> None:
    """Remove a pool of another type, which Prefect cannot change; no waiting run may go with it."""
    # Of those that are due: the next nights' runs of `prune` are made anew.
    now = datetime.now(UTC)
    if waiting := await client.get_scheduled_flow_runs_for_work_pool(POOL, scheduled_before=now):
        raise StartFailed(
            f"The work pool {POOL} is of the type {pool.type}, and {len(waiting)} runs wait in it.",
            why=f"Runs are started by the type {WarmWorker.type} now, and a pool keeps its type.",
            hint="Let the version that made it finish them, or cancel them, then start this one.",
        )
    await client.delete_work_pool(POOL)


async def _keep_or_save(client: PrefectClient, name: str, block: Block) -> None:
    # A name that a block of another kind has, e.g. an ECS stack, is that one's.
    slug = block.get_block_type_slug()
    kinds = next((kinds for kinds in (REGISTRIES, STACKS) if slug in kinds), {})
    others = [resolve_name(kind) for other, kind in kinds.items() if other != slug]
    if any([await load_if_there(client, kind, name) for kind in others]):
        return
    there = await load_if_there(client, type(block), name)
    # The embedded registry is where this system has just started it.
    moved = isinstance(there, Registry) and is_loopback(there.address)
    if there is None or moved:
        await block.save(name, overwrite=True)
