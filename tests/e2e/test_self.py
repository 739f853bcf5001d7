"""The pipeline builds this very repository, with its own Dockerfile."""

import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks.engine import DockerHost
from blocks.prefect_api import prefect_api
from blocks.repository import GitHubRepository
from deployments import example
from deployments.demo_watch import Watch
from deployments.provisioning import PROJECT
from tests.conftest import Origin, remove_images, unique

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

COMMAND = "import flows.pipeline, flows.redeploy, deployments.service, deployments.system"


async def test_the_pipeline_builds_and_tests_this_repository_with_its_own_dockerfile(
    watch: Watch, origin: Origin, docker_host: DockerHost
) -> None:
    sha = copied_into(origin)
    repository = GitHubRepository(url=str(origin.bare), webhook_secret=SecretStr("not used here"))
    await repository.save("samebits")
    async with prefect_api() as client:
        others = await client.read_deployment_by_name("pipeline/hello-service-others")
        commit = {"repository": "samebits", "branch": "master", "sha": sha}
        settings = {
            "build": {"args": {"BASE": "samebits/python:local"}},
            "test": {"command": ["python3", "-c", COMMAND]},
        }
        await client.create_flow_run_from_deployment(
            others.id, parameters={"commit": commit, "settings": settings}
        )
    try:
        run = await watch.finished(sha, "master", 1, print, seconds=300)
    finally:
        remove_images(docker_host, str(origin.bare))
    run.must_have("COMPLETED", ["build", "test"], executed=["build", "test"])


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
