"""The pipeline builds this very repository, and Prefect's own workers run the flows from it."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.workers.process import ProcessWorker
from prefect_aws.workers import ECSWorker
from prefect_docker.worker import DockerWorker
from pydantic import SecretStr

from blocks.docker_stack import DockerStack
from blocks.engine import DockerHost, Engine
from blocks.prefect_api import PIPELINE, prefect_api
from blocks.registry import Registry
from blocks.repository import GitHubRepository
from deployments import example, host_images
from deployments.demo_watch import Watch
from deployments.environment import child_environment
from deployments.provisioning import PROJECT
from deployments.settings import SystemSettings
from deployments.system import System
from tests.aws.agent import EcsAgent
from tests.aws.cloud import running_cloud
from tests.conftest import Origin, free_port, remove_images, unique
from tests.services import service_files
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

COMMAND = "import flows.pipeline, flows.redeploy, deployments.service, deployments.system"
BASE = {"BASE": "samebits/python:local"}
STEPS = ["build", "test", "publish", "deploy"]
CLUSTER = "SAMEBITS_TESTS_KUBECONFIG"
"""Not KUBECONFIG, which may name a cluster that is meant for something else"""


@pytest.fixture(scope="module")
def image(
    system: System, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of the image of this very repository, built and tested by the pipeline."""
    origin = Origin(tmp_path_factory.mktemp("self"))
    try:
        asyncio.run(_built_by_the_pipeline(system.settings, origin))
        name = image_of(docker_host, origin)
        yield name
        with docker_host.get_client() as client:  # a run has ended before its container has
            users = {"filters": {"ancestor": name}}
            wait_until(lambda: not client.containers.list(**users), 30, "the runs' containers end")
    finally:
        remove_images(docker_host, str(origin.bare))


async def _built_by_the_pipeline(settings: SystemSettings, origin: Origin) -> None:
    sha = copied_into(origin)
    repository = GitHubRepository(url=str(origin.bare), webhook_secret=SecretStr("not used here"))
    async with prefect_api() as client:
        await repository.save("samebits")
        others = await client.read_deployment_by_name("pipeline/hello-service-others")
        how = {"build": {"args": BASE}, "test": {"command": ["python3", "-c", COMMAND]}}
        await client.create_flow_run_from_deployment(
            others.id,
            parameters={
                "commit": {"repository": "samebits", "branch": "master", "sha": sha},
                "settings": how,
            },
        )
        run = await Watch(settings, client).finished(sha, "master", 1, print, seconds=300)
    run.must_have("COMPLETED", ["build", "test"], executed=["build", "test"])


@dataclass(frozen=True)
class Service:
    """A repository, which has no hook, and the stack that it goes to; both blocks have its name."""

    name: str
    origin: Origin
    stack: DockerStack


@pytest.fixture
async def service(system: System, docker_host: DockerHost) -> AsyncIterator[Service]:
    name, settings = f"own-{unique()[:8]}", system.settings
    folder = settings.home / name
    folder.mkdir()
    origin, switch = Origin(folder), host_images.haproxy().name
    stack = DockerStack(port=free_port(), prefix=settings.name, switch_image=switch)
    async with prefect_api():
        await stack.save(name)
        await origin.block.save(name)
    try:
        yield Service(name, origin, stack)
    finally:
        stack.destroy(name)
        remove_images(docker_host, str(origin.bare))


async def test_prefects_process_worker_delivers(system: System, service: Service) -> None:
    template = ProcessWorker.get_default_base_job_template()
    await delivered_by(ProcessWorker.type, template, {}, system.settings, service)


async def test_prefects_docker_worker_delivers(
    system: System, image: str, service: Service
) -> None:
    settings = system.settings
    variables = {
        "image": image,
        "image_pull_policy": "Never",
        "network_mode": "host",
        "volumes": [f"{path}:{path}" for path in of_the_host(settings)],
        "env": environment(settings),
        "auto_remove": True,
    }
    template = DockerWorker.get_default_base_job_template()
    await delivered_by(DockerWorker.type, template, variables, settings, service)


async def test_prefects_ecs_worker_delivers(
    system: System, docker_host: DockerHost, image: str, service: Service, name: str
) -> None:
    settings = system.settings
    registry = Registry(address=f"127.0.0.1:{settings.registry_port}")
    with Engine(docker_host) as engine:
        there = registry.repository("samebits")
        engine.tag(image, there, "self")
        engine.push(there, "self", registry.auth())
    with (
        running_cloud(registry.address) as cloud,
        EcsAgent(docker_host, lambda: None, name=f"{name}-ecs-worker"),
    ):
        cloud.client("ecs").create_cluster(clusterName="runs")
        # Here the worker listens for tasks that crash; it does not start well without.
        cloud.client("sqs").create_queue(QueueName="prefect-ecs-tasks-events")
        account = {
            "AWS_ENDPOINT_URL": cloud.url,
            "AWS_DEFAULT_REGION": cloud.region,
            "AWS_ACCESS_KEY_ID": "AKIAADMINOFTESTS0000",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        variables = {
            "image": f"{there}:self",
            "cluster": "runs",
            "launch_type": "EC2",
            "env": environment(settings),
        }
        template = on_a_container_instance(of_the_host(settings))
        await delivered_by(ECSWorker.type, template, variables, settings, service, account)


@pytest.mark.skipif(
    CLUSTER not in os.environ or not importlib.util.find_spec("prefect_kubernetes"),
    reason=f"no Kubernetes: set {CLUSTER} to the kubeconfig of a cluster whose only node has this "
    "host's folders and Docker engine, and install the extra 'kubernetes'",
)
async def test_prefects_kubernetes_worker_delivers(
    system: System, image: str, service: Service
) -> None:
    settings = system.settings
    variables = {"image": image, "image_pull_policy": "Never", "env": environment(settings)}
    async with prefect_api() as client:
        known = (await client.read_worker_metadata())["prefect-kubernetes"]["kubernetes"]
    template = on_a_node(known["default_base_job_configuration"], of_the_host(settings))
    own = {"KUBECONFIG": os.environ[CLUSTER]}
    await delivered_by("kubernetes", template, variables, settings, service, own)


def on_a_node(template: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    """Prefect's template for Kubernetes, as docs/operating.md has it changed."""
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    named = {f"host-{number}": path for number, path in enumerate(paths)}
    pod["hostNetwork"] = True
    pod["volumes"] = [{"name": name, "hostPath": {"path": path}} for name, path in named.items()]
    pod["containers"][0]["volumeMounts"] = [
        {"name": name, "mountPath": path} for name, path in named.items()
    ]
    return template


def on_a_container_instance(paths: list[str]) -> dict[str, Any]:
    """Prefect's template for ECS, as docs/operating.md has it changed."""
    template = ECSWorker.get_default_base_job_template()
    definition = template["job_configuration"]["task_definition"]
    named = {f"host-{number}": path for number, path in enumerate(paths)}
    definition["networkMode"] = "host"
    definition["requiresCompatibilities"] = ["EC2"]
    definition["volumes"] = [
        {"name": name, "host": {"sourcePath": path}} for name, path in named.items()
    ]
    definition["containerDefinitions"][0]["mountPoints"] = [
        {"sourceVolume": name, "containerPath": path} for name, path in named.items()
    ]
    return template


async def delivered_by(
    type_: str,
    template: dict[str, Any],
    variables: dict[str, Any],
    settings: SystemSettings,
    service: Service,
    own: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Have a commit delivered by a worker of Prefect's, and see that it was, by that one."""
    sha = service.origin.push(service_files(unique()), subject="By Prefect's own worker")
    async with prefect_api() as client:
        async with own_pool(client, type_, template, variables) as (pool, deployment):
            given = {
                "commit": {"repository": service.name, "branch": "master", "sha": sha},
                "stack": service.name,
                "settings": {"build": {"args": BASE}},
            }
            made = await client.create_flow_run_from_deployment(deployment, parameters=given)
            print(await asyncio.to_thread(one_run, type_, pool, child_environment(settings) | own))
            # The one for ECS does not wait for the end of the run.
            watch = Watch(settings, client)
            seen = await watch.finished(sha, "master", 1, print, seconds=300)
            await watch.told(made.id, "passed", service.name)
        run = await client.read_flow_run(made.id)
    seen.must_have("COMPLETED", STEPS, executed=STEPS)
    assert run.labels["prefect.worker.type"] == type_
    registry = Registry(address=f"127.0.0.1:{settings.registry_port}")
    published = registry.manifest(registry.repository(service.name), sha)
    serving = service.stack.serving(service.name)
    assert published
    assert serving
    assert (serving.sha, serving.digest) == (sha, published.digest)


def one_run(type_: str, pool: str, environment: Mapping[str, str]) -> str:
    """Let a worker take one run; returns what it said."""
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--type", type_]
    done = subprocess.run(
        [*worker, "--pool", pool, "--name", pool, "--run-once"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.stdout + done.stderr


@asynccontextmanager
async def own_pool(
    client: PrefectClient, type_: str, template: dict[str, Any], variables: dict[str, Any]
) -> AsyncIterator[tuple[str, UUID]]:
    """A work pool of this type, and the deployment of `pipeline` to it."""
    pool = f"{type_}-{unique()[:8]}"
    await client.create_work_pool(WorkPoolCreate(name=pool, type=type_, base_job_template=template))
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
            job_variables=variables,
        )
        try:
            yield pool, deployment
        finally:
            await client.delete_deployment(deployment)
    finally:
        await client.delete_work_pool(pool)


def of_the_host(settings: SystemSettings) -> list[str]:
    """What a run's container needs of the host, under the same path."""
    return ["/var/run/docker.sock", str(settings.home)]


def environment(settings: SystemSettings) -> dict[str, str]:
    """What a run's container needs to know."""
    return {
        name: value
        for name, value in child_environment(settings).items()
        if name.startswith(("SAMEBITS_", "PREFECT_")) and name != "PREFECT_HOME"
    }


def image_of(host: DockerHost, origin: Origin) -> str:
    """The name of what was built from a repository."""
    with host.get_client() as client:
        label = f"org.opencontainers.image.source={origin.bare}"
        (image,) = client.images.list(filters={"label": label})
        return str(image.tags[0])


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
