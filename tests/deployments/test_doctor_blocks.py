"""The doctor: blocks that do not load, and what those that do lead to."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.client.schemas.objects import (
    BlockDocument,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import PrefectHTTPStatusError

from blocks.channel import SlackChannel
from blocks.contracts import ImageRegistry
from blocks.docker_stack import DockerStack
from blocks.engine import About, DockerHost
from blocks.inventory import Inventory, take_inventory
from blocks.registry import Registry
from deployments.checks.checking import Scene
from deployments.checks.engine import check_engine, judge_engine
from deployments.checks.mapping import check_branches, differences
from deployments.checks.rooms import check_rooms, judge_repository
from domain.health import Verdict, failed, ok
from domain.routing import Route
from tests.conftest import Origin, free_port
from tests.doctor import answering, elsewhere, hello, idle_scene, verdicts

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


class FakePrefect:
    """The blocks of a Prefect server, and the one question that the inventory asks."""

    def __init__(self) -> None:
        self.documents: dict[str, list[BlockDocument]] = {}
        self.broken: dict[str, int] = {}

    def keep(self, kind: type[Block], name: str, **data: Any) -> None:
        document = BlockDocument(
            name=name,
            data=data,
            block_schema_id=uuid4(),
            block_type_id=uuid4(),
        )
        self.documents.setdefault(kind.get_block_type_slug(), []).append(document)

    async def read_block_documents_by_type(self, slug: str, **_: object) -> list[BlockDocument]:
        if status := self.broken.get(slug):
            answer = httpx.Response(status, request=httpx.Request("GET", "http://prefect/"))
            raise PrefectHTTPStatusError("broken", request=answer.request, response=answer)
        return self.documents.get(slug, [])

    async def inventory(self) -> Inventory:
        return await take_inventory(cast("PrefectClient", self))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A system of which nothing runs."""
    return idle_scene(tmp_path)


async def test_each_block_that_does_not_load_is_named_and_the_others_are_there() -> None:
    prefect = FakePrefect()
    prefect.keep(Registry, "default", address="127.0.0.1:5000")
    prefect.keep(Registry, "old", address="127.0.0.1:5000", colour="red", password="s3cret")
    prefect.keep(DockerStack, "stage", port=8081)
    prefect.keep(DockerStack, "prod", port="the secret port")
    found = await prefect.inventory()
    assert set(found.registries) == {"default"}
    assert set(found.stacks) == {"stage"}
    said = [str(fault) for fault in found.faults]
    assert [text.partition(" ")[0] for text in said] == [
        "samebits-docker-stack/prod",
        "samebits-registry/old",
    ]
    assert "colour" in said[1]
    assert "port" in said[0]
    assert "s3cret" not in said[1]
    assert "the secret port" not in said[0]


async def test_blocks_that_the_server_cannot_decrypt_are_one_fault() -> None:
    prefect = FakePrefect()
    prefect.keep(Registry, "default", address="127.0.0.1:5000")
    prefect.broken[SlackChannel.get_block_type_slug()] = 500
    found = await prefect.inventory()
    assert set(found.registries) == {"default"}
    (fault,) = found.faults
    assert "samebits-slack-channel" in fault.what
    assert "PREFECT_SERVER_ENCRYPTION_KEY" in fault.hint


async def test_a_server_that_is_overloaded_breaks_no_block() -> None:
    prefect = FakePrefect()
    prefect.broken[SlackChannel.get_block_type_slug()] = 503
    with pytest.raises(PrefectHTTPStatusError):
        await prefect.inventory()


def leads(repository: str, branch: str, stack: str | None = None) -> Route:
    return Route(deployment_id=uuid4(), repository=repository, branch=branch, stack=stack)


def test_what_leads_nowhere_is_named() -> None:
    there = Inventory([("hello", hello()), ("idle", hello()), ("stage", DockerStack(port=8081))])
    routes = [
        leads("hello", "main", "stage"),
        leads("hello", "release", "prod"),
        leads("gone", "*"),
    ]
    idle, gone, prod = check_branches(there, routes)
    assert (idle.verdict.value, gone.verdict.value) == ("warning", "failed")
    assert "repository idle" in idle.said
    assert "repository gone" in gone.said
    assert prod.verdict is Verdict.FAILED
    assert "release of hello leads to the stack prod" in prod.said
    there.loaded.pop(1)
    (found,) = check_branches(there, routes[:1])
    assert found.verdict is Verdict.OK


def test_deployments_that_are_missing_or_left_over_or_differ_are_named() -> None:
    def applied(name: str, **parameters: str) -> DeploymentResponse:
        return DeploymentResponse(
            name=name, flow_id=uuid4(), entrypoint="flows.x.y", parameters=parameters
        )

    def entry(name: str, **parameters: str) -> dict[str, Any]:
        return {"name": name, "entrypoint": "flows.x.y", "parameters": parameters}

    there = [applied("same", stack="stage"), applied("moved", stack="prod"), applied("old")]
    wanted = [entry("same", stack="stage"), entry("moved", stack="stage"), entry("new")]
    assert differences(wanted, there) == [
        "new is missing",
        "old is not in the file",
        "moved has another parameters",
    ]
    bare = {"name": "old", "entrypoint": "flows.x.y"}
    assert differences([bare, *wanted[:1]], [there[0], there[2]]) == []


def test_branches_without_an_entry_are_named_unless_one_is_for_all_others() -> None:
    branches = ["main", "b", "a", "c", "d"]
    found = judge_repository("hello", "url", branches, [leads("hello", "main")])
    assert found.verdict is Verdict.WARNING
    assert "a, b, c and 1 more" in found.said
    both = [leads("hello", "main"), leads("hello", "*")]
    assert judge_repository("hello", "url", branches, both).verdict is Verdict.OK


async def test_each_system_that_a_block_leads_to_is_asked(
    scene: Scene, registry: Registry, origin: Origin, slack_refuses: SlackChannel
) -> None:
    origin.push({"a": "b"})
    away = Registry(address=f"127.0.0.1:{free_port()}")
    gone = hello(url="/nowhere/at/all.git", registry="none")
    stack = DockerStack(port=free_port(), prefix="samebits-nothing")
    blocks: list[tuple[str, Block]] = [
        ("good", registry),
        ("away", away),
        ("hello", hello(url=str(origin.bare), registry="good")),
        ("lost", gone),
        ("stage", stack),
        ("far", stack.model_copy(update={"engine": DockerHost(base_url="tcp://127.0.0.1:9")})),
        ("integration", slack_refuses),
    ]
    assert all(isinstance(block, ImageRegistry) for _, block in blocks[:2])
    broken = [failed("engine", "It is away.", "Start it.")]
    found = await check_rooms(scene, Inventory(blocks), [leads("hello", "*")], broken)
    assert verdicts(found) == {
        "registry good": "ok",
        "registry away": "failed",
        "registry none": "failed",
        "git hello": "ok",
        "git lost": "failed",
        "stack stage": "skipped",
        "stack far": "failed",
        "channel": "failed",
    }
    assert all(finding.hint for finding in found if finding.verdict is Verdict.FAILED)
    well = await check_rooms(scene, Inventory([("stage", stack)]), [], [ok("engine", "")])
    assert verdicts(well) == {"stack stage": "ok", "channel": "ok"}


@pytest.fixture
def slack_refuses() -> Iterator[SlackChannel]:
    """A channel whose Slack knows no token."""
    with answering(0, {}) as url:
        yield SlackChannel(token="xoxb-unknown", api_url=f"{url}/api/")


async def test_an_engine_says_what_it_is_and_one_that_is_away_is_named(
    scene: Scene, docker_host: DockerHost
) -> None:
    (found,) = await check_engine(scene, docker_host)
    assert found.verdict is Verdict.OK
    assert found.said.endswith("BuildKit")
    away = DockerHost(base_url=f"tcp://127.0.0.1:{free_port()}")
    for each in (scene, elsewhere(scene)):
        (found,) = await check_engine(each, away)
        assert found.verdict is Verdict.FAILED
        assert "docker info" in found.hint


def test_an_engine_without_buildkit_fails_and_a_wasteful_one_is_a_warning() -> None:
    about = About(version="18.06", storage_driver="overlay2", buildkit=False)
    assert judge_engine(about).verdict is Verdict.FAILED
    about = About(version="28.0", storage_driver="vfs", buildkit=True)
    assert judge_engine(about).verdict is Verdict.WARNING
