"""The same pipeline on ECR and ECS: a system of its own, led to the stand-in account by blocks."""

import asyncio
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from rich.console import Console

from blocks.engine import DockerHost
from blocks.prefect_api import prefect_api
from deployments import example
from deployments.demo import Demo
from deployments.demo_watch import Watch
from deployments.processes import Child
from deployments.settings import SystemSettings
from deployments.system import WORKER, System
from tests.aws.stacks import AwsStacks, aws_stacks
from tests.conftest import free_port, remove_system, unique
from tests.e2e.conftest import Clone
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def settings(name: str, tmp_path_factory: pytest.TempPathFactory) -> SystemSettings:
    return SystemSettings(
        home=tmp_path_factory.mktemp("aws"),
        name=f"{name}-aws",
        prefect_port=free_port(),
        receiver_port=free_port(),
        registry_port=free_port(),
        stage_port=free_port(),
        prod_port=free_port(),
    )


@pytest.fixture(scope="module")
def system(settings: SystemSettings, docker_host: DockerHost) -> Iterator[System]:
    example.take_as_known(settings)
    try:
        with System(settings, print).running() as running:
            yield running
    finally:
        remove_system(docker_host, settings)


@pytest.fixture(scope="module")
def stacks(system: System, settings: SystemSettings) -> Iterator[AwsStacks]:
    with aws_stacks(settings) as stacks:
        assert isinstance(stacks, AwsStacks)
        yield stacks


async def test_the_five_scenes_of_the_demo_hold_on_aws(
    stacks: AwsStacks, watch: Watch, settings: SystemSettings, tmp_path: Path
) -> None:
    said = io.StringIO()
    example.git("clone", "--quiet", str(example.bare_repository(settings)), str(tmp_path / "work"))
    demo = Demo(stacks, watch, tmp_path / "work", Console(file=said, width=120))
    assert await demo.play(), said.getvalue()
    assert demo.scenes[1].digest == demo.scenes[2].digest


def test_a_deploy_whose_worker_was_killed_is_finished_by_the_retry(
    stacks: AwsStacks, system: System, clone: Clone
) -> None:
    cloud, agent = stacks.account.cloud, stacks.account.agent
    service = stacks.account.outputs["StageServiceName"]
    sha = clone.commit({"VERSION": unique()}, "Deployed by two workers")
    cloud.calls.clear()
    agent.hold(service)
    clone.push(sha, "master")

    def updates() -> int:
        return [call.action for call in cloud.calls].count("ecs:UpdateService")

    wait_until(lambda: updates() == 1, 60, "the update")
    worker = next(child for child in system.children if child.name == WORKER)
    kill_with_its_runs(worker)
    system.revive(worker)  # in this thread: a child ends with the thread that started it
    agent.release(service)
    asyncio.run(crashed_then_retried(system.settings, sha))
    assert updates() == 1


async def crashed_then_retried(settings: SystemSettings, sha: str) -> None:
    async with prefect_api() as client:
        watch = Watch(settings, client)
        run = await watch.finished(sha, "master", 1, print)
        assert run.state == "CRASHED"
        await watch.told(run.id, "crashed")
        await watch.retry(run.id)
        again = await watch.finished(sha, "master", 2, print)
        again.must_have("COMPLETED", ["build", "test", "publish", "deploy"], executed=["deploy"])
        assert await watch.serving("aws-stage") == watch.published(sha)


def kill_with_its_runs(worker: Child) -> None:
    subprocess.run(["pkill", "-KILL", "-P", str(worker._process.pid)], check=True)
    worker._process.kill()
    wait_until(lambda: not worker.running, 10)


async def test_what_the_scan_found_is_told_and_may_stop_a_redeploy(
    stacks: AwsStacks, watch: Watch, clone: Clone
) -> None:
    account = stacks.account
    sha = clone.commit({"VERSION": unique()}, "An old base image")
    clone.push(sha, "master")
    assert (await watch.finished(sha, "master", 1, print)).state == "COMPLETED"
    digest = watch.published(sha) or ""
    account.cloud.set_findings("hello-service", digest, {"CRITICAL": 1, "HIGH": 3})

    promoted = await redeploy(stack="aws-prod", image=digest)
    assert promoted.state_name == "Completed"
    assert await watch.serving("aws-prod") == digest
    await watch.told(promoted.id, "passed", "deploy: scan: 1 critical, 3 high")
    async with prefect_api() as client:
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[promoted.id]))
        )
    assert "1 critical, 3 high" in str([a.data for a in artifacts if a.key == "scan"])

    await account.registry(refuse_severity="CRITICAL").save("ecr", overwrite=True)
    refused = await redeploy(stack="aws-stage", image=sha)
    assert refused.state_name == "Failed"
    assert "1 of these are CRITICAL or worse" in (refused.state.message or "")  # type: ignore[union-attr]


async def redeploy(**parameters: str) -> FlowRun:
    async with prefect_api() as client:
        deployment = await client.read_deployment_by_name("redeploy/hello-service-redeploy")
        run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        while not (run.state and run.state.is_final()):
            await asyncio.sleep(0.2)
            run = await client.read_flow_run(run.id)
    return run
