"""A stack on a real engine, behind a real haproxy, with real requests."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prefect.types import SecretDict

from blocks import stopping
from blocks.contracts import Turn
from blocks.docker_stack import DockerStack
from blocks.engine import DockerHost, Engine
from blocks.registry import Registry
from blocks.stack_host import StackHost
from blocks.switch import Switch, _asking
from deployments import host_images
from deployments.demo_watch import Load
from domain.errors import (
    DeployFailed,
    EngineRefused,
    EngineUnavailable,
    Overtaken,
    RunEnded,
    Superseded,
)
from domain.image import PublishedImage
from tests.conftest import Origin, RunningRegistry, free_port
from tests.services import published, service_files
from tests.turns import Refused, a_turn, of_a_cancelled_run
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

Version = Callable[..., PublishedImage]


@pytest.fixture
def stack(name: str, version: Version, engine: Engine) -> Iterator[DockerStack]:
    """A stack `it` on a free port; all that it made is removed before its images are."""
    assert version
    block = DockerStack(
        port=free_port(),
        prefix=name,
        switch_image=host_images.haproxy().name,
        health_timeout_seconds=15,
    )
    yield block
    with contextlib.suppress(EngineRefused):  # some tests have none
        print("The traffic switch said:", *engine.tail(f"{name}-it-switch"), sep="\n")
    block.destroy("it")


@pytest.fixture
def version(engine: Engine, registry: Registry, origin: Origin) -> Iterator[Version]:
    """Makes a published version of the example."""
    with ExitStack() as made:
        yield lambda *words, **more: made.enter_context(
            published(engine, registry, origin, *words, **more)
        )


def said(stack: DockerStack) -> str:
    return httpx.get(f"http://127.0.0.1:{stack.port}/", timeout=5).raise_for_status().text


def containers_of(stack: DockerStack, engine: Engine) -> set[str]:
    return {c.id for c in engine.containers({"samebits.stack": f"{stack.prefix}-it"})}


def old_versions_end(stack: DockerStack, engine: Engine) -> None:
    """Nobody waits for it: in the end there is one version, and the switch."""
    wait_until(lambda: len(containers_of(stack, engine)) == 2, 15, "one version is left")


def test_a_first_deploy_serves_and_says_what_it_serves(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    image = version("one")
    serving = stack.deploy("it", image, registry, a_turn(), print)
    assert (serving.digest, serving.sha) == (image.digest, image.commit.sha)
    assert stack.serving("it") == serving
    assert "version one" in said(stack)


def test_versions_are_switched_without_a_failed_request(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    images = [version(text) for text in ("one", "two", "three", "four")]
    stack.deploy("it", images[0], registry, a_turn(), print)
    with Load(f"http://127.0.0.1:{stack.port}/") as keep_alive:
        for image in images[1:]:
            stack.deploy("it", image, registry, a_turn(), print)
            assert f"version {image.commit.subject}" in said(stack)
    assert keep_alive.sent > 20
    assert (keep_alive.failed, keep_alive.faults) == (0, set())
    old_versions_end(stack, engine)


SLOW_TO_END = """\
import pathlib, signal, sys, time
def end(*_):
    while not pathlib.Path("/tmp/end").exists():
        time.sleep(0.05)
    sys.exit(0)
"""


def test_nobody_waits_for_an_old_version_that_takes_its_time_to_end(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    files = service_files("slow")["hello.py"].replace("lambda *_: sys.exit(0)", "end")
    slow = version("slow", files={"hello.py": SLOW_TO_END + files})
    stack.deploy("it", slow, registry, a_turn(), print)
    (old,) = engine.containers({"samebits.commit": slow.commit.sha})
    stack.deploy("it", version("two"), registry, a_turn(), print)
    assert "version two" in said(stack)
    ending = engine.container(old.id)
    assert ending
    assert ending.running
    assert not ending.kept, "an engine that restarts now would start it beside the new one"
    with ThreadPoolExecutor() as pool:
        # It has to have its end before the next version takes its place.
        next_one = pool.submit(stack.deploy, "it", version("three"), registry, a_turn(), print)
        assert engine.ask(old.id, "touch /tmp/end") == (0, "")
        next_one.result(timeout=60)
    assert "version three" in said(stack)
    old_versions_end(stack, engine)


def test_an_old_version_that_cannot_be_stopped_is_logged(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "stop", refused)
        stack.deploy("it", version("one"), registry, a_turn(), print)
        stack.deploy("it", version("two"), registry, a_turn(), lines.append)
        wait_until(lambda: "does not stop" in lines[-1], 15)
    assert "version two" in said(stack)
    assert len(containers_of(stack, engine)) == 3
    stack.deploy("it", version("three"), registry, a_turn(), print)
    old_versions_end(stack, engine)


def test_an_old_version_is_stopped_though_the_engine_is_away_for_a_moment(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    lines: list[str] = []
    away = [EngineUnavailable("The Docker engine went away.")]
    stop = Engine.stop

    def stop_later(self: Engine, name: str) -> None:
        if away:
            raise away.pop()
        stop(self, name)

    stack.deploy("it", version("one"), registry, a_turn(), print)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "stop", stop_later)
        patch.setattr(stopping, "_PAUSES", (0.0, None))
        stack.deploy("it", version("two"), registry, a_turn(), lines.append)
        old_versions_end(stack, engine)
    assert not [line for line in lines if "does not stop" in line]


def refused(*_: object) -> None:
    raise EngineRefused("The Docker engine refused stopping it.")


def test_a_version_that_ends_is_removed_the_old_one_serves_on_and_its_log_is_the_reason(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    stack.deploy("it", version("old"), registry, a_turn(), print)
    with (
        Load(f"http://127.0.0.1:{stack.port}/") as load,
        pytest.raises(DeployFailed, match="exit code 1") as caught,
    ):
        stack.deploy("it", version("new", needs="TOKEN"), registry, a_turn(), print)
    assert caught.value.log[-1] == "The setting TOKEN is missing: this version cannot start."
    assert "serves on" in str(caught.value)
    assert load.failed == 0
    assert "version old" in said(stack)
    old_versions_end(stack, engine)


def test_a_version_in_a_slot_that_served_well_before_is_checked_anew(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    for text in ("one", "two"):
        stack.deploy("it", version(text), registry, a_turn(), print)
    with pytest.raises(DeployFailed):
        stack.deploy("it", version("three", needs="TOKEN"), registry, a_turn(), print)
    assert "version two" in said(stack)


def test_a_version_that_never_answers_its_health_check_is_given_up_in_time(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    stack.deploy("it", version("old"), registry, a_turn(), print)
    deaf = stack.model_copy(update={"health_timeout_seconds": 2})
    with pytest.raises(DeployFailed, match=r"After 2 s .*the port"):
        deaf.deploy(
            "it",
            version("new", files={"hello.py": "import time; time.sleep(3600)"}),
            registry,
            a_turn(),
            print,
        )
    assert "version old" in said(stack)


def test_a_version_whose_health_answers_later_than_the_switch_would_wait_never_serves(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    stack.deploy("it", version("old"), registry, a_turn(), print)
    code = Path("examples/hello-service/hello.py").read_text()
    slow = code.replace("    def do_GET(self)", "    def do_GET(self, wait=time.sleep)").replace(
        '        text = "ok"', '        wait(2 if name == "health" else 0)\n        text = "ok"'
    )
    assert slow.count("wait") == 2
    late = stack.model_copy(update={"health_timeout_seconds": 5})
    with pytest.raises(DeployFailed, match="After 5 s"):
        late.deploy(
            "it",
            version("new", files={"hello.py": slow.replace("import sys\n", "import sys, time\n")}),
            registry,
            a_turn(),
            print,
        )
    assert "version old" in said(stack)
    with stack._open("it") as on:
        stat = Switch(on.engine, f"{on.prefix}-switch")._run(_asking("show stat -1 4 -1"))
    new = [line for line in stat.splitlines() if line.startswith("new,")]
    assert len(new) == 2
    assert all(",MAINT," in line for line in new), "what was given up is not checked any more"


def test_settings_and_secrets_of_the_stack_reach_the_service(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    stack.environment = {"TOKEN": "x"}
    stack.secrets = SecretDict({"PASSWORD": "y"})
    stack.deploy("it", version("one", needs="TOKEN PASSWORD"), registry, a_turn(), print)
    assert "version one" in said(stack)


def test_what_a_broken_off_deploy_left_is_removed_by_the_next(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    one, two = version("one"), version("two")
    stack.deploy("it", one, registry, a_turn(), print)

    left_behind(stack, two, registry, engine)
    assert "version one" in said(stack)
    stack.deploy("it", two, registry, a_turn(), print)
    assert "version two" in said(stack)
    old_versions_end(stack, engine)


def left_behind(
    stack: DockerStack, image: PublishedImage, registry: Registry, engine: Engine
) -> None:
    """What a killed deploy leaves: the new container runs, the traffic is not turned."""

    def die_once(line: str) -> None:
        if line.startswith("Healthy"):
            raise KilledError

    with contextlib.suppress(KilledError), _nothing_is_removed(engine):
        stack.deploy("it", image, registry, a_turn(), die_once)


class KilledError(BaseException):
    """Stands for a SIGKILL."""


@contextlib.contextmanager
def _nothing_is_removed(engine: Engine) -> Iterator[None]:
    kind = type(engine)
    original = kind.remove
    kind.remove = lambda self, name: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.remove = original  # type: ignore[method-assign]


def test_a_version_that_has_just_begun_to_serve_outlives_a_failed_check(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    stack.deploy("it", version("one"), registry, a_turn(), print)
    with stack._open("it") as on:
        switch = on.take_turn(a_turn("a deploy"), print)
        switch.shut("b")
        switch.turn_to_new("b")
        status = switch.switch.slots()["b"].status
    # Nobody is there, so that no check has made it so. One that was under way may just have failed.
    assert status in ("UP", "UP 2/3"), "at UP 1/3 the next failed check ends it"


def test_a_switch_that_restarts_serves_on_by_itself(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    for text in ("one", "two"):
        stack.deploy("it", version(text), registry, a_turn(), print)
    engine.stop(f"{stack.prefix}-it-switch")
    engine.start(f"{stack.prefix}-it-switch")
    wait_for(lambda: "version two" in said(stack))
    stack.deploy("it", version("three"), registry, a_turn(), print)
    assert "version three" in said(stack)


def test_a_switch_whose_image_has_gone_from_its_name_is_started_again(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    here = f"{stack.prefix}-haproxy"
    engine.tag(str(engine.image_id(stack.switch_image)), here, "gone")
    stack = stack.model_copy(update={"switch_image": f"{here}:gone"})
    stack.deploy("it", version("one"), registry, a_turn(), print)
    engine.stop(f"{stack.prefix}-it-switch")
    engine.remove_image(stack.switch_image)
    stack.deploy("it", version("two"), registry, a_turn(), print)
    assert "version two" in said(stack)


def test_a_stack_that_was_halted_serves_the_same_version_again(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    serving = stack.deploy("it", version("one"), registry, a_turn(), print)
    stack.halt("it")
    with pytest.raises(httpx.HTTPError):
        said(stack)
    stack.resume("it")
    wait_for(lambda: "version one" in said(stack))
    assert stack.serving("it") == serving


def test_what_a_cut_off_deploy_left_never_serves_after_a_restart(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    stack.deploy("it", version("one"), registry, a_turn(), print)
    left_behind(stack, version("two"), registry, engine)
    stack.halt("it")
    stack.resume("it")
    wait_for(lambda: "version one" in said(stack))
    assert {said(stack) for _ in range(10)} == {said(stack)}
    old_versions_end(stack, engine)


def test_what_lives_through_the_end_of_all_else_serves_on_though_its_deploy_was_cut_off(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    one, two = version("one"), version("two")
    stack.deploy("it", one, registry, a_turn(), print)
    with contextlib.suppress(KilledError), dies_after_the_switch():
        stack.deploy("it", two, registry, a_turn("its run"), print)
    with Load(f"http://127.0.0.1:{stack.port}/") as load:
        stack.resume("it")
    assert load.failed == 0
    assert "version two" in said(stack)
    old_versions_end(stack, engine)


def test_a_version_that_never_served_is_not_taken_for_one_that_did_by_a_restart(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    left_behind(stack, version("one"), registry, engine)
    stack.resume("it")
    labels = {"samebits.stack": f"{stack.prefix}-it", "samebits.role": "version"}
    assert [container.kept for container in engine.containers(labels)] == [False]
    two = version("two")
    assert stack.deploy("it", two, registry, a_turn(), print).sha == two.commit.sha


def test_what_is_revived_is_what_serves_nothing_and_no_deploy_is_disturbed(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    stack.deploy("it", version("one"), registry, a_turn(), print)

    def revived(line: str) -> None:
        if line.startswith("Healthy"):
            stack.revive("it")

    stack.deploy("it", version("two"), registry, a_turn(), revived)
    assert "version two" in said(stack)
    stack.halt("it")
    stack.revive("it")
    wait_for(lambda: "version two" in said(stack))


def test_a_changed_setting_that_does_not_work_leaves_the_old_switch(
    stack: DockerStack, registry: Registry, version: Version, running_registry: RunningRegistry
) -> None:
    stack.deploy("it", version("one"), registry, a_turn(), print)
    taken = int(registry.address.rpartition(":")[2])
    wrong = stack.model_copy(update={"port": taken})
    with pytest.raises(EngineRefused, match="port is already allocated"):
        wrong.deploy("it", version("two"), registry, a_turn(), print)
    wait_for(lambda: "version one" in said(stack))


def test_a_stack_gets_ready_whatever_is_there_and_changes_nothing(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    stack.get_ready("it")
    assert not containers_of(stack, engine)
    one = version("one")
    stack.deploy("it", one, registry, a_turn(), print)
    stack.get_ready("it")
    assert len(containers_of(stack, engine)) == 2
    stack.halt("it")
    stack.get_ready("it")
    assert not any(c.running for c in engine.containers({"samebits.stack": f"{stack.prefix}-it"}))
    DockerStack(
        port=stack.port, engine=DockerHost(base_url="unix:///nonexistent/docker.sock")
    ).get_ready("it")


def test_a_changed_setting_of_the_switch_takes_effect_with_the_next_deploy(
    stack: DockerStack, registry: Registry, version: Version
) -> None:
    stack.deploy("it", version("one"), registry, a_turn(), print)
    stack.port = free_port()
    stack.deploy("it", version("two"), registry, a_turn(), print)
    assert "version two" in said(stack)


@pytest.mark.parametrize("at", [1, 2])
def test_a_commit_that_has_to_give_way_changes_nothing_up_to_the_last_moment(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine, at: int
) -> None:
    one = version("one")
    serving = stack.deploy("it", one, registry, a_turn(), print)
    refused = Refused(at=at)
    with Load(f"http://127.0.0.1:{stack.port}/") as load, pytest.raises(Superseded):
        stack.deploy("it", version("two"), registry, refused.turn, print)
    assert refused.seen == [serving] * at
    assert load.failed == 0
    assert stack.serving("it") == serving
    old_versions_end(stack, engine)


def test_a_worker_that_was_thought_dead_and_wakes_up_cannot_deploy(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    stack.deploy("it", version("one"), registry, a_turn(), print)
    two, three = version("two"), version("three")

    def sleep_through_another_deploy(line: str) -> None:
        if line.startswith("Healthy"):
            stack.deploy("it", three, registry, a_turn("a later run"), print)

    with (
        Load(f"http://127.0.0.1:{stack.port}/") as load,
        pytest.raises(Overtaken, match="a later run is on"),
    ):
        stack.deploy("it", two, registry, a_turn(), sleep_through_another_deploy)
    assert load.failed == 0
    assert "version three" in said(stack)
    old_versions_end(stack, engine)


def test_a_run_that_has_ended_before_it_deploys_changes_nothing(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    serving = stack.deploy("it", version("one"), registry, a_turn(), print)
    there = containers_of(stack, engine)
    with pytest.raises(RunEnded):
        stack.deploy("it", version("two"), registry, of_a_cancelled_run(), print)
    assert containers_of(stack, engine) == there
    changed = stack.model_copy(update={"port": free_port()})
    with pytest.raises(RunEnded):
        changed.deploy("it", version("three"), registry, of_a_cancelled_run(), print)
    assert containers_of(stack, engine) == there
    assert "version one" in said(stack)
    assert stack.serving("it") == serving


def test_a_worker_that_wakes_up_after_its_switch_leaves_the_later_version_alone(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    one, two = version("one"), version("two")
    with stack._open("it") as on:
        sleeper = on.take_turn(a_turn("a run that sleeps"), print)
        old = on.current()
    stack.deploy("it", one, registry, a_turn(), print)
    stack.deploy("it", two, registry, a_turn(), print)
    with stack._open("it") as on:
        on.remove_leftovers(sleeper, old)
        with pytest.raises(Overtaken):
            sleeper.turn_to("a")
    assert "version two" in said(stack)
    assert stack.serving("it")


def test_the_retry_of_a_deploy_that_died_after_the_switch_only_finishes_it(
    stack: DockerStack, registry: Registry, version: Version, engine: Engine
) -> None:
    one, two = version("one"), version("two")
    stack.deploy("it", one, registry, a_turn(), print)
    with contextlib.suppress(KilledError), dies_when_draining():
        stack.deploy("it", two, registry, a_turn("its run"), print)
    there = containers_of(stack, engine)
    refused = Refused()  # nobody is asked again
    retry = Turn("its run", refused.turn.admit)
    assert stack.deploy("it", two, registry, retry, print).sha == two.commit.sha
    assert "version two" in said(stack)
    old_versions_end(stack, engine)
    assert containers_of(stack, engine) < there


@contextlib.contextmanager
def dies_when_draining() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackHost, "drain_and_stop", _die)
        yield


@contextlib.contextmanager
def dies_after_the_switch() -> Iterator[None]:
    """Between the command to the switch, and anything that follows from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "keep", _die)
        patch.setattr(StackHost, "give_back", _die)
        yield


def _die(*_: object) -> None:
    raise KilledError


def wait_for(ready: Callable[[], bool]) -> None:
    def quietly() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return ready()
        return False

    wait_until(quietly, 15)
