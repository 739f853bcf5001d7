"""The pipeline builds this very repository, and Prefect's Docker worker runs the flows from it."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect_docker.worker import DockerWorker
from pydantic import SecretStr

from blocks.engine import DockerHost
from blocks.prefect_api import PIPELINE, prefect_api, read_steps, step_name
from blocks.repository import GitHubRepository
from deployments import example
from deployments.demo_watch import Watch
from deployments.environment import child_environment
from deployments.provisioning import PROJECT
from deployments.settings import SystemSettings
from deployments.system import System
from tests.conftest import Origin, remove_images, unique

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

COMMAND = "import flows.pipeline, flows.redeploy, deployments.service, deployments.system"
BASE = {"BASE": "samebits/python:local"}


async def test_the_pipeline_builds_this_repository_and_the_image_runs_in_prefects_docker_worker(
    watch: Watch, system: System, origin: Origin, docker_host: DockerHost
) -> None:
    sha = copied_into(origin)
    repository = GitHubRepository(url=str(origin.bare), webhook_secret=SecretStr("not used here"))
    await repository.save("samebits")
    async with prefect_api() as client:
        others = await client.read_deployment_by_name("pipeline/hello-service-others")
        settings = {"build": {"args": BASE}, "test": {"command": ["python3", "-c", COMMAND]}}
        await client.create_flow_run_from_deployment(
            others.id, parameters={"commit": commit("samebits", sha), "settings": settings}
        )
        try:
            run = await watch.finished(sha, "master", 1, print, seconds=300)
            run.must_have("COMPLETED", ["build", "test"], executed=["build", "test"])
            await build_and_test_in(image_of(docker_host, origin), client, system.settings)
        finally:
            remove_images(docker_host, str(origin.bare))


async def build_and_test_in(image: str, client: PrefectClient, settings: SystemSettings) -> None:
    """Have a run built and tested by Prefect's Docker worker, in a container of this image."""
    bare = example.bare_repository(settings)
    heads = GitHubRepository(url=str(bare), webhook_secret=SecretStr("not used here")).heads()
    async with docker_pool(client, image, settings) as (pool, deployment):
        build = {"args": BASE | {"BY": unique()}}  # so that nothing of it was built before
        given = {"commit": commit("hello-service", heads["master"]), "settings": {"build": build}}
        made = await client.create_flow_run_from_deployment(deployment, parameters=given)
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--type", "docker"]
        done = await asyncio.to_thread(
            subprocess.run,
            [*worker, "--pool", pool, "--name", pool, "--run-once"],
            env=child_environment(settings),
            capture_output=True,
            text=True,
            timeout=400,
        )
        run = await client.read_flow_run(made.id)
        assert run.state_name == "Completed", done.stdout + done.stderr
        assert run.labels["prefect.worker.type"] == "docker"
        steps = [(step_name(step), step.state_name) for step in await read_steps(client, run.id)]
        assert steps == [("build", "Completed"), ("test", "Completed")]


@asynccontextmanager
async def docker_pool(
    client: PrefectClient, image: str, settings: SystemSettings
) -> AsyncIterator[tuple[str, UUID]]:
    """A work pool of Prefect's Docker workers, and the deployment of `pipeline` to it."""
    pool = f"docker-{unique()}"
    template = DockerWorker.get_default_base_job_template()
    await client.create_work_pool(
        WorkPoolCreate(name=pool, type=DockerWorker.type, base_job_template=template)
    )
    try:
        (flow,) = await client.read_flows(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[PIPELINE]))
        )
        deployment = await client.create_deployment(
            flow.id,
            name=pool,
            entrypoint="flows.pipeline.pipeline",
            work_pool_name=pool,
            pull_steps=[],
            path=".",
            job_variables=job_variables(image, settings),
        )
        try:
            yield pool, deployment
        finally:
            await client.delete_deployment(deployment)
    finally:
        await client.delete_work_pool(pool)


def job_variables(image: str, settings: SystemSettings) -> dict[str, Any]:
    """Those of docs/operating.md: a run's container has the engine, and this host's folder."""
    own = child_environment(settings).items()
    return {
        "image": image,
        "image_pull_policy": "Never",
        "network_mode": "host",
        "volumes": [f"{path}:{path}" for path in ("/var/run/docker.sock", settings.home)],
        "env": {
            name: value
            for name, value in own
            if name.startswith(("SAMEBITS_", "PREFECT_")) and name != "PREFECT_HOME"
        },
        "auto_remove": True,
    }


def image_of(host: DockerHost, origin: Origin) -> str:
    """The name of what was built from a repository."""
    with host.get_client() as client:
        label = f"org.opencontainers.image.source={origin.bare}"
        (image,) = client.images.list(filters={"label": label})
        return str(image.tags[0])


def commit(repository: str, sha: str) -> dict[str, str]:
    return {"repository": repository, "branch": "master", "sha": sha}


def copied_into(origin: Origin) -> str:
    """The files of this repository and a mark of its own, as one commit of another; its SHA."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (source := PROJECT / name).is_file():
            target = Path(origin.work, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    Path(origin.work, "MARKER").write_text(unique())
    sha = example.commit(origin.work, "This very repository")
    origin.push_ref(sha, "master")
    return sha
