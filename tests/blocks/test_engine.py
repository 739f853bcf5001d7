"""The engine's room, against a real engine."""

import io
import socket
import tarfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from docker.errors import APIError
from docker.models.containers import ContainerCollection
from pydantic import ValidationError

from blocks import process
from blocks.engine import DockerHost, Engine, Limits, Service
from deployments import host_images
from domain.errors import (
    BaseImageUnavailable,
    BuildFailed,
    BuildTimedOut,
    DockerfileMissing,
    EngineRefused,
    EngineUnavailable,
)
from domain.settings import BuildSettings
from tests.conftest import RunningRegistry, unique

BASE = "samebits/python:local"
LIMITS = Limits(memory_mib=256, processes=64, timeout_seconds=30)
LABELS = {"samebits.role": "test", "samebits.run": unique()}

pytestmark = pytest.mark.engine


def archive(files: dict[str, str]) -> io.BytesIO:
    """A tar of files, at its start."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer


@pytest.fixture
def tag(engine: Engine, name: str) -> Iterator[str]:
    """A tag for a built image, which is removed afterwards."""
    reference = f"{name}:built"
    yield reference
    engine.remove_image(reference)


def build(engine: Engine, tag: str, text: str, **more: object) -> tuple[str, list[str]]:
    settings = BuildSettings.model_validate({"args": {"BASE": BASE}} | more)
    lines: list[str] = []
    files = {settings.dockerfile: f"ARG BASE\nFROM $BASE\n{text}", "hello": "hello"}
    image = engine.build(archive(files), settings, {"a": "label"}, tag, lines.append)
    return image, lines


def test_an_image_is_built_with_its_labels_and_a_streamed_log(engine: Engine, tag: str) -> None:
    run = f"RUN echo told-$((20+22)) # {uuid.uuid4()}\nCOPY . /app"
    image, lines = build(engine, tag, run)
    assert image == engine.image_id(tag)
    assert engine.image_labels(image)["a"] == "label"
    assert "  told-42" in lines


def test_labels_of_the_system_win_over_those_of_the_dockerfile(engine: Engine, tag: str) -> None:
    image, _ = build(engine, tag, 'LABEL a="forged"')
    assert engine.image_labels(image)["a"] == "label"


def test_a_dockerfile_elsewhere_a_target_and_build_arguments_are_settings(
    engine: Engine, tag: str
) -> None:
    args = {"BASE": BASE, "GREETING": "hei"}
    image, _ = build(
        engine,
        tag,
        "FROM $BASE AS early\nARG GREETING\nENV SAID=$GREETING\nFROM $BASE AS late\nENV SAID=late",
        dockerfile="docker/Dockerfile.prod",
        target="early",
        args=args,
    )
    told: list[str] = []
    engine.run(image, ["sh", "-c", "echo $SAID"], LIMITS, LABELS, told.append)
    assert told == ["hei"]


def test_a_failed_step_of_the_dockerfile_shows_its_last_lines_and_is_not_retried(
    engine: Engine, tag: str
) -> None:
    with pytest.raises(BuildFailed, match="exit code: 3") as caught:
        build(engine, tag, "RUN echo what-went-wrong; exit 3")
    assert "  what-went-wrong" in caught.value.log
    assert not caught.value.retryable


def test_a_base_image_that_cannot_be_reached_is_worth_a_second_try(
    engine: Engine, tag: str
) -> None:
    with pytest.raises(BaseImageUnavailable) as caught:
        build(engine, tag, "", args={"BASE": "127.0.0.1:9/nobody/listens:1"})
    assert caught.value.retryable


def test_no_dockerfile_is_a_clear_message(engine: Engine, tag: str) -> None:
    with pytest.raises(DockerfileMissing, match=r"no Dockerfile.*settings\.build\.dockerfile"):
        engine.build(archive({"a": "b"}), BuildSettings(), {}, tag, print)


@pytest.mark.parametrize("path", ["../Dockerfile", "/etc/passwd", "a/../../b", ""])
def test_a_dockerfile_outside_the_context_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="inside the build context"):
        BuildSettings(dockerfile=path)


def test_a_build_that_takes_too_long_is_stopped(engine: Engine, tag: str) -> None:
    with pytest.raises(BuildTimedOut, match="longer than 2 s"):
        build(engine, tag, f"RUN sleep 60 # {uuid.uuid4()}", timeout_seconds=2)


def test_the_result_of_a_run_is_its_exit_code_and_its_log_is_streamed(engine: Engine) -> None:
    image = engine.image_id(BASE)
    assert image
    told: list[str] = []
    command = ["sh", "-c", "echo one; echo two >&2; exit 7"]
    result = engine.run(image, command, LIMITS, LABELS, told.append)
    assert result.exit_code == 7
    assert sorted(told) == ["one", "two"]
    assert sorted(result.tail) == ["one", "two"]
    assert not engine.containers(LABELS)


def test_a_run_that_takes_too_long_is_killed(engine: Engine) -> None:
    limits = Limits(memory_mib=64, processes=16, timeout_seconds=1)
    result = engine.run(engine.image_id(BASE) or "", ["sleep", "60"], limits, LABELS, print)
    assert result.timed_out
    assert not engine.containers(LABELS)


def test_a_run_that_takes_too_much_memory_is_ended_and_says_so(engine: Engine) -> None:
    eater = "b = []\nwhile True: b.append(b'x' * 10**7)"
    result = engine.run(
        engine.image_id(BASE) or "", ["python3", "-c", eater], LIMITS, LABELS, print
    )
    assert result.exit_code != 0
    assert result.out_of_memory


def test_a_fork_bomb_does_not_get_past_its_limit(engine: Engine) -> None:
    bomb = (
        "import os, time\ntry:\n  while True:\n    os.fork() or time.sleep(9)\nexcept OSError: pass"
    )
    limits = Limits(memory_mib=256, processes=20, timeout_seconds=5)
    engine.run(engine.image_id(BASE) or "", ["python3", "-c", bomb], limits, LABELS, print)
    assert not engine.containers(LABELS)


def test_code_under_test_gets_no_secret_no_socket_and_no_capability(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    told: list[str] = []
    look = "env; ls /var/run; grep -E 'CapEff|NoNewPrivs' /proc/self/status; cat /proc/mounts"
    engine.run(engine.image_id(BASE) or "", ["sh", "-c", look], LIMITS, LABELS, told.append)
    text = "\n".join(told)
    assert "CI=true" in text
    assert "do-not-tell" not in text
    assert "PREFECT" not in text
    assert "SAMEBITS" not in text
    assert "docker.sock" not in text
    assert "CapEff:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text


def made_networks(docker_host: DockerHost, since: float) -> list[Any]:
    """The engine's networks that came or went since a time, in seconds since 1970."""
    with docker_host.get_client() as client:
        events = client.events(
            since=since, until=time.time(), filters={"type": "network"}, decode=True
        )
        return [event for event in events if event["Action"] in {"create", "destroy"}]


def reached(engine: Engine, address: str) -> list[str]:
    """What code under test reaches: a registry's address, and a port of the host's loopback."""
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as on_host:
        port = on_host.getsockname()[1]
        gateway = "$(ip route | awk '/default/ {print $3}')"
        tries = [
            f"nc -w 2 {address} 5000 </dev/null && echo reached-registry & ",
            f"nc -w 2 127.0.0.1 {port} </dev/null && echo reached-loopback & ",
            f"nc -w 2 {gateway} {port} </dev/null && echo reached-host & ",
            "wait; echo tried",
        ]
        engine.run(
            engine.image_id(BASE) or "", ["sh", "-c", "".join(tries)], LIMITS, LABELS, told.append
        )
    assert "tried" in told
    return [line for line in told if line.startswith("reached")]


def test_code_under_test_reaches_neither_the_registry_nor_other_containers_nor_the_host(
    engine: Engine, docker_host: DockerHost, running_registry: RunningRegistry
) -> None:
    address = engine.address(running_registry.container)
    engine.sandbox_network()
    # Docker 20.10 takes its isolation away for some milliseconds when any network is made, as tests
    # beside this one do; docs/architecture.md, Security.
    for _ in range(10):
        since = time.time()
        found = reached(engine, address)
        if not made_networks(docker_host, since):
            break
    else:
        raise AssertionError("networks were made all the time")
    assert not found


@pytest.mark.parametrize("ending", ["", "-whose-interface-has-another-name"])
def test_several_at_once_make_one_network_of_a_name(
    engine: Engine, docker_host: DockerHost, ending: str
) -> None:
    called = f"sb-{unique()[:8]}{ending}"

    def make(_: int) -> None:
        with Engine(docker_host) as own:
            own.network(called, LABELS)

    try:
        with ThreadPoolExecutor(6) as runs:
            list(runs.map(make, range(6)))
        with docker_host.get_client() as client:
            assert len(client.networks.list(names=[f"^{called}$"])) == 1
    finally:
        engine.remove_network(called)


def test_a_file_that_the_tests_left_is_read_and_one_that_is_missing_is_none(engine: Engine) -> None:
    image = engine.image_id(BASE) or ""
    write = ["sh", "-c", "cd /tmp; echo '<x/>' > junit.xml"]
    assert engine.run(image, write, LIMITS, LABELS, print, "/tmp/junit.xml").file == b"<x/>\n"
    assert engine.run(image, ["true"], LIMITS, LABELS, print, "junit.xml").file is None


def test_a_folder_in_place_of_the_file_is_not_read(engine: Engine) -> None:
    folder = [
        "sh",
        "-c",
        "mkdir /tmp/junit.xml; dd if=/dev/zero of=/tmp/junit.xml/x bs=1M count=64",
    ]
    result = engine.run(
        engine.image_id(BASE) or "", folder, LIMITS, LABELS, print, "/tmp/junit.xml"
    )
    assert result.file is None


def test_the_command_runs_whatever_the_entrypoint_of_the_image_is(engine: Engine, tag: str) -> None:
    image, _ = build(engine, tag, 'ENTRYPOINT ["true"]\nCMD ["x"]')
    assert engine.run(image, ["false"], LIMITS, LABELS, print).exit_code == 1
    assert engine.run(image, ["true"], LIMITS, LABELS, print).exit_code == 0


def test_a_failed_step_that_speaks_of_services_is_a_failed_build(engine: Engine, tag: str) -> None:
    words = "Service Unavailable: failed to do request, 503, context canceled"
    with pytest.raises(BuildFailed) as caught:
        build(engine, tag, f'RUN (echo "{words}"; exit 1)')
    assert not caught.value.retryable


def test_a_link_in_place_of_the_file_is_not_followed(engine: Engine) -> None:
    link = ["ln", "-s", "/etc/passwd", "/tmp/junit.xml"]
    result = engine.run(engine.image_id(BASE) or "", link, LIMITS, LABELS, print, "/tmp/junit.xml")
    assert result.file is None


def test_a_log_with_anything_in_it_is_told_line_by_line(engine: Engine) -> None:
    told: list[str] = []
    wild = r"printf 'a\0b\n\377\376\n%9000s\nlast' x"
    result = engine.run(
        engine.image_id(BASE) or "", ["sh", "-c", wild], LIMITS, LABELS, told.append
    )
    assert result.exit_code == 0
    assert told[0] == "ab"
    assert told[-1] == "last"
    assert all(len(line) <= 2000 for line in told)


def test_an_engine_that_does_not_answer_is_worth_a_second_try() -> None:
    with (
        pytest.raises(EngineUnavailable, match="docker info") as caught,
        Engine(DockerHost(base_url="unix:///nonexistent/docker.sock")),
    ):
        pass
    assert caught.value.retryable


def test_a_name_that_is_free_in_a_moment_is_waited_for_and_one_that_is_taken_is_refused(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(f"{name}-named", host_images.haproxy().name, labels={})
    original = ContainerCollection.create
    left = [1]

    def create(*given: Any, **how: Any) -> Any:
        if left and left.pop():
            answer = requests.Response()
            answer.status_code = 409
            said = f'Conflict. The container name "/{service.name}" is already in use by container'
            raise APIError("409", answer, said)
        return original(*given, **how)

    monkeypatch.setattr(ContainerCollection, "create", create)
    try:
        assert engine.create(service)
        assert not left
        with pytest.raises(EngineRefused, match="already in use"):
            engine.create(service)
    finally:
        engine.remove(service.name)


def test_a_proxy_is_looked_for_on_the_way_to_another_host_only() -> None:
    with Engine(DockerHost()) as here:
        assert here._docker.api.trust_env is False
    with Engine(DockerHost(base_url="tcp://10.0.0.5:2376", version="1.41")) as another:
        assert another._docker.api.trust_env is True


def test_a_run_has_one_connection_from_step_to_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_of_run", {})
    with Engine(DockerHost()) as one, Engine(DockerHost()) as another:
        assert one._docker is not another._docker
    monkeypatch.setenv(process._RUN_ID, "a run")
    with Engine(DockerHost()) as first:
        first.about()
    of_a_block = DockerHost()
    of_a_block._block_document_id = uuid.uuid4()
    with Engine(of_a_block) as second:
        assert second._docker is first._docker
        second.about()
    second._docker.close()
