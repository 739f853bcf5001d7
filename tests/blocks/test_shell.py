"""Many small scripts in one shell of a running container, against a real engine."""

from collections.abc import Iterator

import pytest

from blocks import process
from blocks.engine import DockerHost, Engine, Service
from deployments import host_images
from domain.errors import EngineRefused
from tests.waiting import wait_until

pytestmark = pytest.mark.engine


@pytest.fixture
def container(engine: Engine, name: str) -> Iterator[str]:
    """A running container with a shell in it."""
    image, called = host_images.haproxy().name, f"{name}-shell"
    config = b"global\ndefaults\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
    files = {"/usr/local/etc/haproxy/haproxy.cfg": config + b"listen a\n  bind :8080\n"}
    engine.create(Service(called, image, labels={"samebits.test": name}, files=files))
    yield called
    engine.remove(called)


def test_each_script_has_its_own_exit_code_and_output(engine: Engine, container: str) -> None:
    assert engine.ask(container, "echo one; echo two >&2") == (0, "one\ntwo\n")
    assert engine.ask(container, "printf 'no end of line'; exit 7") == (7, "no end of line")
    assert engine.ask(container, "cd /tmp; X=1; true") == (0, "")
    assert engine.ask(container, 'echo "$PWD $X"') == (0, "/ \n")
    assert engine.ask(container, "cat") == (0, ""), "nothing comes from its input"


def test_they_share_one_process(engine: Engine, container: str) -> None:
    code, first = engine.ask(container, "echo $PPID") or (1, "")
    assert (code, engine.ask(container, "echo $PPID")) == (0, (0, first))


def test_a_long_answer_is_whole(engine: Engine, container: str) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done"
    _, output = engine.ask(container, script) or (1, "")
    assert output.splitlines() == [f"line {number}" for number in range(20_000)]


def test_an_answer_that_is_lost_is_none_and_the_next_script_has_a_new_shell(
    engine: Engine, container: str
) -> None:
    assert engine.ask(container, "kill -9 $$") is None
    assert engine.ask(container, "echo again") == (0, "again\n")


def test_the_shell_ends_with_the_connection(engine: Engine, container: str) -> None:
    with Engine(DockerHost()) as other:
        _, pid = other.ask(container, "echo $$") or (1, "")
    alive = f"test -e /proc/{pid.strip()}"
    wait_until(lambda: engine.ask(container, alive) == (1, ""), 20, "it is gone")


def test_a_container_that_was_started_again_has_a_new_shell(engine: Engine, container: str) -> None:
    engine.open_shell(container)
    engine.stop(container, grace_seconds=1)
    engine.start(container)
    assert engine.ask(container, "echo from the old one") is None
    assert engine.ask(container, "echo again") == (0, "again\n")


def test_a_run_has_one_shell_from_step_to_step(
    docker_host: DockerHost, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_of_run", {})
    monkeypatch.setattr(Engine, "_shells_of_run", {})
    monkeypatch.setenv(process._RUN_ID, "a run")
    with Engine(docker_host) as first:
        opened = first.open_shell(container)
    with Engine(docker_host) as second:
        assert second.open_shell(container) is opened
        assert second.ask(container, "echo still there") == (0, "still there\n")
    monkeypatch.delenv(process._RUN_ID)
    second._leave(container)
    second._docker.close()


def test_a_container_that_does_not_run_is_refused(engine: Engine, container: str) -> None:
    engine.stop(container, grace_seconds=1)
    with pytest.raises(EngineRefused, match="opening a shell"):
        engine.ask(container, "true")
