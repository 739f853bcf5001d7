"""What users meet, end to end: pushes, bad pushes, retries, cancels, redeploys."""

import asyncio
import json
import re
import subprocess
import sys
import time
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from blocks import all as blocks
from blocks.channel import SlackChannel
from blocks.engine import DockerHost, Engine
from blocks.loading import load
from blocks.prefect_api import prefect_api, read_runs, read_steps
from deployments import example
from deployments.demo_watch import Seen, Watch
from deployments.environment import child_environment
from deployments.inbox import Inbox
from deployments.service import CHANNEL
from deployments.system import System
from domain.github import signature
from domain.settings import BuildSettings
from tests.conftest import unique
from tests.e2e.conftest import Clone
from tests.slack import Slack
from tests.waiting import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
OWN = [kind for name in blocks.__all__ if (kind := getattr(blocks, name)) is not DockerHost]


async def ended(watch: Watch, sha: str, branch: str, attempt: int = 1) -> Seen:
    return await watch.finished(sha, branch, attempt, print)


async def test_the_block_types_are_registered_by_the_package_alone(system: System) -> None:
    async with prefect_api() as client:
        for kind in OWN:
            slug = kind.get_block_type_slug()
            found = await client.read_block_type_by_slug(slug)
            schema = await client.get_most_recent_block_schema_for_block_type(found.id)
            assert schema
            for name, described in schema.fields["properties"].items():
                assert described.get("description"), f"{slug}.{name} does not explain itself"
                assert described.get("examples"), f"{slug}.{name} has no example"


async def test_the_ui_asks_for_the_role_of_aws_credentials(system: System) -> None:
    async with prefect_api() as client:
        found = await client.read_block_type_by_slug("aws-credentials")
        shown = await client.get_most_recent_block_schema_for_block_type(found.id)
    assert shown
    assert "assume_role_arn" in shown.fields["properties"]


async def test_a_commit_without_a_dockerfile_says_so_and_is_not_retried(
    clone: Clone, watch: Watch
) -> None:
    clone.git("rm", "--quiet", "Dockerfile")
    sha = clone.commit({"VERSION": unique()}, "No Dockerfile")
    clone.push(sha, "feature/none", force=True)
    run = await ended(watch, sha, "feature/none")
    run.must_have("FAILED", ["build"], executed=["build"])
    assert "The commit has no Dockerfile." in run.message
    assert "Traceback" not in run.message
    await watch.told(run.id, "failed", "no Dockerfile")


async def test_red_tests_run_once_and_their_junit_file_becomes_a_table(
    clone: Clone, watch: Watch
) -> None:
    report = '<testsuite><testcase name="t"><failure message="is red"/></testcase></testsuite>'
    makefile = f"test:\n\t@echo '{report}' > /tmp/junit.xml; mv /tmp/junit.xml .; exit 1\n"
    docker = (example.SOURCE / "Dockerfile").read_text().replace("USER", "RUN chmod 777 .\nUSER")
    sha = clone.commit({"Makefile": makefile, "Dockerfile": docker, "VERSION": unique()}, "Red")
    clone.push(sha, "feature/red", force=True)
    run = await ended(watch, sha, "feature/red")
    run.must_have("FAILED", ["build", "test"], executed=["build", "test"])
    async with prefect_api() as client:
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
        steps = await read_steps(client, run.id)
    (table,) = [artifact for artifact in artifacts if artifact.key == "tests"]
    assert "is red" in str(table.data)
    assert [step.run_count for step in steps] == [1, 1]


async def test_a_branch_with_any_name_is_built_and_the_run_is_called_after_it(
    clone: Clone, watch: Watch
) -> None:
    branch = "feature/ü-{commit.sha}%s"
    sha = clone.commit({"VERSION": unique()}, "Curly {braces} & <!channel> %d")
    clone.push(sha, branch, force=True)
    run = await ended(watch, sha, branch)
    assert run.state == "COMPLETED"
    async with prefect_api() as client:
        found = await client.read_flow_run(run.id)
    assert found.name == f"{branch} {sha[:8]} Curly {{braces}} & <!channel> %d"
    assert set(found.tags) >= {"repository:hello-service", f"branch:{branch}"}


async def test_slack_is_told_by_one_message_that_is_kept_up_to_date(
    clone: Clone, watch: Watch, slack: Slack
) -> None:
    local = load(SlackChannel, CHANNEL)
    await slack.block().save(CHANNEL, overwrite=True)
    try:
        sha = clone.commit({"VERSION": unique()}, "Told in Slack")
        clone.push(sha, "feature/told", force=True)
        assert (await ended(watch, sha, "feature/told")).state == "COMPLETED"
        wait_until(lambda: [m for m in slack.messages() if "passed" in m["text"]], 20, "told")
    finally:
        await local.save(CHANNEL, overwrite=True)
    (message,) = [m for m in slack.messages() if "feature/told" in m["text"]]
    assert "Told in Slack" in json.dumps(message["attachments"])


async def test_a_commit_that_was_force_pushed_away_before_it_ran_says_so(
    clone: Clone, watch: Watch
) -> None:
    branch, head = "feature/gone", clone.git("rev-parse", "origin/master")
    sha = clone.commit({"VERSION": unique()}, "Soon gone")
    clone.git("push", "--quiet", "origin", f"{sha}:refs/heads/feature/keeps-it")
    clone.push(head, branch, force=True)
    async with prefect_api() as client:
        others = await client.read_deployment_by_name("pipeline/hello-service-others")
        commit = {"repository": "hello-service", "branch": branch, "sha": sha}
        await client.create_flow_run_from_deployment(others.id, parameters={"commit": commit})
    run = await ended(watch, sha, branch)
    run.must_have("FAILED", ["build"], executed=["build"])
    assert "force-pushed" in run.message
    async with prefect_api() as client:
        found = await client.read_flow_run(run.id)
    assert set(found.tags) == {"repository:hello-service", f"branch:{branch}"}


async def test_a_dockerfile_does_not_get_at_the_secrets_in_prefects_api(
    clone: Clone, watch: Watch, system: System
) -> None:
    path = "block_types/slug/samebits-repository/block_documents/name/hello-service"
    url = f"{system.settings.api_url}/{path}?include_secrets=true"
    docker = (example.SOURCE / "Dockerfile").read_text() + f"ADD {url} /stolen\n"
    sha = clone.commit({"Dockerfile": docker, "VERSION": unique()}, "Steal the secrets")
    clone.push(sha, "feature/thief", force=True)
    run = await ended(watch, sha, "feature/thief")
    assert run.state == "FAILED"
    assert "401" in run.message


async def test_a_deployment_that_prefect_yaml_does_not_name_is_deleted_by_apply(
    watch: Watch, system: System
) -> None:
    async with prefect_api() as client:
        others = await client.read_deployment_by_name("pipeline/hello-service-others")
        parameters = {"commit": {"repository": "hello-service", "branch": "*"}, "stack": "prod"}
        await client.create_deployment(others.flow_id, "stray", parameters=parameters)
        assert "applied" in command_line(watch, "apply")
        names = {deployment.name for deployment in await client.read_deployments()}
    assert "stray" not in names
    assert "hello-service-others" in names


def test_the_doctor_finds_a_running_system_well(watch: Watch) -> None:
    said = command_line(watch, "doctor", "--limit=60")
    found = {
        what.strip(): verdict
        for verdict, what in re.findall(r"^(\w+) +(\S.*?)  ", said, re.MULTILINE)
    }
    needed = [
        "engine",
        "disk of the data folder",
        "Prefect's API",
        "database",
        "worker",
        "deployments",
        "blocks",
        "branches",
        "registry default",
        "git hello-service",
        "stack prod",
        "stack stage",
        "channel",
        "receiver",
    ]
    assert {what: found.get(what) for what in needed} == dict.fromkeys(needed, "ok"), said
    assert {"reconciled hello-service", "webhook hello-service", "deliveries"} <= set(found)


async def test_the_same_tree_in_another_commit_is_neither_built_nor_tested_again(
    clone: Clone, watch: Watch
) -> None:
    first = clone.commit({"VERSION": unique()}, "One")
    clone.push(first, "feature/tree-one", force=True)
    (await ended(watch, first, "feature/tree-one")).must_have(
        "COMPLETED", ["build", "test"], executed=["build", "test"]
    )
    clone.git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-mTwo")
    second = clone.git("rev-parse", "HEAD")
    clone.push(second, "feature/tree-two", force=True)
    run = await ended(watch, second, "feature/tree-two")
    run.must_have("COMPLETED", ["build", "test"], executed=[])


async def test_cancelling_stops_the_tests_within_seconds_and_leaves_no_container(
    clone: Clone, watch: Watch, engine: Engine
) -> None:
    sha = clone.commit({"Makefile": "test:\n\tsleep 600\n", "VERSION": unique()}, "Endless")
    clone.push(sha, "feature/endless", force=True)
    run = await running(watch, sha, engine)
    async with prefect_api() as client:
        await client.set_flow_run_state(run.id, Cancelling())
    wait_until(lambda: not containers_of(engine, run), 20, "the container is gone")
    seen = await ended(watch, sha, "feature/endless")
    assert seen.state == "CANCELLED"
    await watch.told(run.id, "cancelled")


async def running(watch: Watch, sha: str, engine: Engine) -> FlowRun:
    """The run of a commit, once its tests run in a container."""
    found: list[FlowRun] = []

    async with prefect_api() as client:
        while not (found and containers_of(engine, found[0])):
            await asyncio.sleep(0.2)
            runs = await read_runs(client, watch._since)
            found = [r for r in runs if (r.parameters.get("commit") or {}).get("sha") == sha]
    return found[0]


def containers_of(engine: Engine, run: FlowRun) -> list[object]:
    return list(engine.containers({"samebits.run": str(run.id)}))


async def test_a_published_commit_is_put_on_a_stack_again_and_no_other_is(
    clone: Clone, watch: Watch
) -> None:
    shas = [clone.commit({"VERSION": unique()}, f"Version {n}") for n in (1, 2)]
    for sha in shas:
        clone.push(sha, "master")
        assert (await ended(watch, sha, "master")).state == "COMPLETED"
    older, newer = (watch.published(sha) for sha in shas)
    assert await watch.serving("stage") == newer

    back = await redeploy(watch, stack="stage", image=shas[0], reason="the new one is slow")
    assert back.state_name == "Completed"
    assert await watch.serving("stage") == older
    await watch.told(back.id, "redeploy", "stage", "passed", "the new one is slow")

    said = command_line(watch, "redeploy", "hello-service", "stage", newer or "", "--reason=not")
    assert "/runs/flow-run/" in said
    assert await watch.serving("stage") == newer
    assert shas[1][:8] in command_line(watch, "deliveries")

    # Without turns, both would start in the same slot, and one would fail of its name.
    at_once = await asyncio.gather(
        *(redeploy(watch, stack="stage", image=sha, reason="at once") for sha in shas)
    )
    assert [run.state_name for run in at_once] == ["Completed", "Completed"]
    assert await watch.serving("stage") in (older, newer)

    feature = clone.commit({"VERSION": unique()}, "Never published")
    wrong = [
        ("has no image", feature, "stage"),
        ("No passed pipeline", "sha256:" + "1" * 64, "stage"),
        ("it has: prod, stage", shas[0], "production"),
        ("40 digits", shas[0][:8], "stage"),
    ]
    refused = await asyncio.gather(
        *(redeploy(watch, stack=stack, image=image) for _, image, stack in wrong)
    )
    for (words, *_), run in zip(wrong, refused, strict=True):
        assert run.state_name == "Failed"
        assert words in (run.state.message or "")
    assert await watch.serving("stage") in (older, newer)


def command_line(watch: Watch, *words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *words],
        env=child_environment(watch._settings),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout


async def redeploy(watch: Watch, **parameters: str) -> FlowRun:
    async with prefect_api() as client:
        deployment = await client.read_deployment_by_name("redeploy/hello-service-redeploy")
        run = await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        while not (run.state and run.state.is_final()):
            await asyncio.sleep(0.2)
            run = await client.read_flow_run(run.id)
    return run


async def test_an_image_that_the_engine_has_lost_is_taken_from_the_registry_by_digest(
    clone: Clone, watch: Watch, engine: Engine
) -> None:
    sha = clone.commit({"VERSION": unique()}, "Lost and found")
    clone.push(sha, "master")
    assert (await ended(watch, sha, "master")).state == "COMPLETED"
    settings = BuildSettings(args={"BASE": "samebits/python:local"})
    tree = clone.git("rev-parse", f"{sha}^{{tree}}")
    tag = f"samebits-build/hello-service:{settings.key('hello-service', tree, trusted=True)}"
    assert engine.image_id(tag)
    engine.remove_image(tag)
    clone.push(sha, "release", force=True)
    run = await ended(watch, sha, "release")
    run.must_have(
        "COMPLETED", ["build", "test", "publish", "deploy"], executed=["publish", "deploy"]
    )
    assert await watch.serving("prod") == watch.published(sha) == await watch.serving("stage")
    assert engine.image_id(tag), "it is named anew, so that the next build finds it at once"


async def test_each_delivery_is_an_event_for_automations(clone: Clone, watch: Watch) -> None:
    head = clone.git("rev-parse", "origin/master")
    clone.push(head, "feature/event", force=True)
    (delivery,) = Inbox(watch._settings.inbox).latest(1)
    body = {"filter": {"event": {"name": ["github.push"]}}}
    async with prefect_api() as client:
        for _ in range(100):
            answer = await client.request("POST", "/events/filter", json=body)
            events = answer.json()["events"]
            if delivery.id in [event["payload"]["delivery"] for event in events]:
                return
            await asyncio.sleep(0.2)
    pytest.fail("Prefect has no event of the delivery")


async def test_a_registry_that_is_down_is_waited_for(
    clone: Clone, watch: Watch, engine: Engine, system: System
) -> None:
    container = f"{system.settings.name}-registry"
    sha = clone.commit({"VERSION": unique()}, "While the registry is away")
    engine.stop(container)
    try:
        clone.push(sha, "master")
        async with prefect_api() as client:
            while not await retrying(client, watch, sha):
                pass
    finally:
        engine.start(container)
    run = await ended(watch, sha, "master")
    assert run.state == "COMPLETED"
    assert await watch.serving("stage") == watch.published(sha)


async def retrying(client: object, watch: Watch, sha: str) -> bool:
    """Whether, after a moment, a step of the commit's run waits for its next try."""
    await asyncio.sleep(0.2)
    runs = await read_runs(client, watch._since)  # type: ignore[arg-type]
    for run in runs:
        if (run.parameters.get("commit") or {}).get("sha") == sha:
            steps = await read_steps(client, run.id)  # type: ignore[arg-type]
            return any(step.state_name == "AwaitingRetry" for step in steps)
    return False


async def test_an_image_that_vanished_is_not_built_again_in_a_retry(
    clone: Clone, watch: Watch, engine: Engine
) -> None:
    sha = clone.commit({"Makefile": "test:\n\tfalse\n", "VERSION": unique()}, "Red and gone")
    clone.push(sha, "feature/vanish", force=True)
    run = await ended(watch, sha, "feature/vanish")
    assert run.state == "FAILED"
    image = await built_image(run)
    engine.remove_image(image)
    await watch.retry(run.id)
    again = await ended(watch, sha, "feature/vanish", attempt=2)
    again.must_have("FAILED", ["build", "test"], executed=["test"])
    assert "is gone from the engine" in again.message
    assert "never builds again" in again.message


async def built_image(run: Seen) -> str:
    """The image that a run's build made, as its log says."""
    async with prefect_api() as client:
        steps = await read_steps(client, run.id)
        (build,) = [step for step in steps if step.name.startswith("build")]
        result = await build.state.aresult()
    return str(result.image_id)


def test_what_is_no_push_to_a_branch_is_recorded_and_starts_nothing(
    clone: Clone, system: System
) -> None:
    head = clone.git("rev-parse", "origin/master")
    clone.push(head, "feature/short", force=True)
    clone.git("push", "--quiet", "origin", "--delete", "feature/short")
    clone.git("tag", "v1", head)
    clone.git("push", "--quiet", "origin", "v1")
    inbox = Inbox(system.settings.inbox)
    reasons = [delivery.reason for delivery in inbox.latest(2)]
    assert reasons == ["'refs/tags/v1' is not a branch", "the branch 'feature/short' was deleted"]


def test_a_delivery_that_is_not_ours_is_refused_at_the_door(system: System) -> None:
    url, body = system.settings.receiver_url, json.dumps({"zen": "x"}).encode()
    headers = {"X-GitHub-Event": "ping", "X-GitHub-Delivery": unique()}
    assert httpx.post(url, content=body, headers=headers).status_code == 401
    wrong = headers | {"X-Hub-Signature-256": signature("wrong", body)}
    assert httpx.post(url, content=body, headers=wrong).status_code == 401
    secret = example.webhook_secret(system.settings)
    right = headers | {"X-Hub-Signature-256": signature(secret, body)}
    assert httpx.post(url, content=body, headers=right).status_code == 202


async def test_a_push_while_the_prefect_server_is_down_is_not_lost(
    clone: Clone, watch: Watch, system: System
) -> None:
    server = next(child for child in system.children if child.name == "prefect-server")
    server.stop()
    system.children.remove(server)
    sha = clone.commit({"VERSION": unique()}, "While the server is away")
    clone.push(sha, "feature/patient", force=True)
    (delivery,) = Inbox(system.settings.inbox).latest(1)
    assert (delivery.sha, delivery.state) == (sha, "waiting")
    await asyncio.to_thread(system._server().wait)
    assert (await ended(watch, sha, "feature/patient")).state == "COMPLETED"
    (delivery,) = Inbox(system.settings.inbox).latest(1)
    assert delivery.state == "dispatched"


async def test_prune_is_to_run_tonight(system: System) -> None:
    """Prefect's scheduler makes its runs, about a minute after the server's start."""
    async with prefect_api() as client:
        prune = await client.read_deployment_by_name("prune/prune")
        deadline = time.monotonic() + 240
        while not await _scheduled(client, prune.id):
            assert time.monotonic() < deadline, "Prefect's scheduler has made no run of prune"
            await asyncio.sleep(1)


async def _scheduled(client: PrefectClient, deployment: UUID) -> list[FlowRun]:
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    return await client.read_flow_runs(deployment_filter=wanted)
