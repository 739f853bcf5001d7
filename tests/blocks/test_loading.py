"""Blocks by name: one request for all that a run needs, and messages that help."""

import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any, Self
from uuid import uuid4

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_docker import DockerHost

from blocks import loading, process
from blocks.docker_stack import DockerStack
from blocks.loading import load, load_one_of, read_ahead, read_meanwhile
from blocks.named import REGISTRIES, STACKS
from domain.errors import UnknownBlock


class FakeServer:
    """Prefect's blocks, as its API gives them; it is its own client and answer."""

    def __init__(self) -> None:
        self.blocks: list[tuple[str, Block]] = []
        self.also: dict[str, str] = {}
        """Slug and name of blocks of other kinds"""
        self.asked: list[list[str]] = []
        self._answer: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def request(self, method: str, path: str, json: dict[str, Any]) -> "FakeServer":
        assert (method, path, json["include_secrets"]) == ("POST", "/block_documents/filter", True)
        names = json["block_documents"]["name"]["any_"]
        self.asked.append(names)
        there = [(name, block, block.get_block_type_slug()) for name, block in self.blocks]
        there += [(name, DockerHost(), slug) for slug, name in self.also.items()]
        self._answer = [_document(*each) for each in there if each[0] in names]
        return self

    def json(self) -> list[dict[str, Any]]:
        return self._answer


def _document(name: str, block: Block, slug: str) -> dict[str, Any]:
    type_id, schema_id = str(uuid4()), str(uuid4())
    return {
        "id": str(uuid4()),
        "name": name,
        "data": block.model_dump(mode="json", exclude={"block_type_slug"}),
        "block_type_id": type_id,
        "block_type": {"id": type_id, "name": "a", "slug": slug},
        "block_schema_id": schema_id,
        "block_schema": {
            "id": schema_id,
            "checksum": "sha256:" + "0" * 64,
            "fields": {},
            "block_type_id": type_id,
            "capabilities": [],
            "version": "1",
        },
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    server = FakeServer()
    server.blocks = [
        ("default", DockerHost(base_url="tcp://10.0.0.5:2376")),
        ("stage", DockerStack(port=8081)),
    ]
    monkeypatch.setattr(loading, "get_client", lambda **_: server)
    monkeypatch.setattr(loading, "_read", {})
    monkeypatch.setattr(loading, "_fresh_until", {})
    monkeypatch.setattr(loading, "_begun", [])
    monkeypatch.delenv(process._RUN_ID, raising=False)
    EventsWorker.set_client_override(NullEventsClient)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield server
    EventsWorker.set_client_override(None)


@pytest.fixture
def run(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    monkeypatch.setenv(process._RUN_ID, str(uuid4()))
    return server


def test_a_step_reads_all_the_blocks_that_it_needs_at_once(run: FakeServer) -> None:
    read_ahead("default", "stage")
    assert load(DockerHost, "default").base_url == "tcp://10.0.0.5:2376"
    assert load_one_of(STACKS, "stage").port == 8081
    assert run.asked == [["default", "stage"]]


def test_what_a_run_begins_to_read_its_steps_do_not_read_again(run: FakeServer) -> None:
    read_meanwhile("default", None, "stage")
    read_meanwhile("stage", "default")
    read_ahead("default")
    read_ahead("stage")
    assert load_one_of(STACKS, "stage").port == 8081
    assert run.asked == [["default", "stage"]]


def test_with_the_blocks_at_hand_a_run_goes_on_once_and_reads_none_again(run: FakeServer) -> None:
    found = Queue[str]()

    def then() -> None:
        found.put(load(DockerHost, "default").base_url or "")

    read_meanwhile("default", "stage", then=then)
    assert found.get(timeout=5) == "tcp://10.0.0.5:2376"
    read_meanwhile("default", None, "stage", then=then)
    read_ahead("default", "stage")
    assert run.asked == [["default", "stage"]]
    assert found.empty()


def test_where_that_fails_the_step_fails_and_its_next_try_reads_anew(
    run: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> FakeServer:
        raise httpx.ConnectError("All connection attempts failed")

    with monkeypatch.context() as patched:
        patched.setattr(run, "request", away)
        read_meanwhile("default")
        with pytest.raises(httpx.ConnectError):
            read_ahead("default")
    read_ahead("default")
    assert load(DockerHost, "default").base_url == "tcp://10.0.0.5:2376"
    assert run.asked == [["default"]]


def test_nothing_looks_through_the_environment_while_prefect_takes_parts_of_it_away(
    run: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in: list[threading.Thread] = []

    def make(**_: object) -> FakeServer:
        made_in.append(threading.current_thread())
        return run

    monkeypatch.setattr(loading, "get_client", make)
    read_meanwhile("default")
    assert made_in == [threading.current_thread()]
    read_ahead("default")
    assert len(made_in) == 1


def test_after_a_while_it_reads_them_again(
    run: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_one_of(STACKS, "stage")
    run.blocks = [("stage", DockerStack(port=9091))]
    assert load_one_of(STACKS, "stage").port == 8081
    monkeypatch.setattr(loading, "_fresh_until", {})
    assert load_one_of(STACKS, "stage").port == 9091


def test_outside_a_run_nothing_is_kept(server: FakeServer) -> None:
    read_meanwhile("default")
    read_ahead("default")
    load(DockerHost, "default")
    load(DockerHost, "default")
    assert server.asked == [["default"], ["default"]]


def test_a_block_that_is_missing_broken_or_there_twice_is_named(server: FakeServer) -> None:
    with pytest.raises(UnknownBlock, match="no block called 'other' of the kind docker-host"):
        load(DockerHost, "other")
    with pytest.raises(UnknownBlock, match="no block called 'stage' of any of these kinds"):
        load_one_of(REGISTRIES, "stage")
    server.also["samebits-ecs-stack"] = "stage"
    with pytest.raises(UnknownBlock, match="Several blocks are called 'stage'"):
        load_one_of(STACKS, "stage")
    server.also, server.blocks = {}, [("stage", DockerStack.model_construct(port=0))]
    with pytest.raises(UnknownBlock, match="samebits-docker-stack/stage cannot be loaded"):
        load_one_of(STACKS, "stage")
