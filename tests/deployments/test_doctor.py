"""The doctor: what it says as a whole, how it runs a check, and what it says of Prefect."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import (
    FlowRun,
    State,
    StateType,
    Worker,
    WorkPool,
    WorkQueue,
)

from deployments.checks.checking import Scene, after, checked, in_thread
from deployments.checks.everything import examine
from deployments.checks.runs import judge_runs
from deployments.checks.server import check_api, database_kind
from deployments.checks.worker import judge
from deployments.doctor import lines, scene_of
from domain.errors import RegistryUnavailable
from domain.health import Finding, Verdict, failed, ok, skipped, warning
from tests.conftest import free_port
from tests.doctor import answering, elsewhere, idle_scene, verdicts

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A system of which nothing runs."""
    return idle_scene(tmp_path)


# -- the whole --------------------------------------------------------------------------------


async def test_where_nothing_runs_it_says_make_up_and_leaves_no_trace(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    found = await examine(scene)
    said = {finding.what: finding for finding in found}
    assert said["Prefect's API"].hint == said["receiver"].hint == "Start the system: make up"
    assert verdicts(found) == {
        "engine": "failed",
        "disk of the data folder": "ok",
        "clock": "ok",
        "Prefect's API": "failed",
        "database": "skipped",
        "worker": "skipped",
        "deployments": "skipped",
        "runs": "skipped",
        "blocks": "skipped",
        "branches": "skipped",
        "registries": "skipped",
        "repositories": "skipped",
        "stacks": "skipped",
        "channel": "skipped",
        "receiver": "failed",
        "deliveries": "ok",
        "reconciled": "skipped",
    }
    assert not scene.settings.home.exists()


async def test_a_system_on_other_hosts_needs_neither_an_engine_nor_a_receiver_here(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    found = verdicts(await examine(elsewhere(scene)))
    assert (found["engine"], found["receiver"]) == ("warning", "warning")
    assert found["Prefect's API"] == "failed"


def test_the_system_is_this_hosts_unless_the_environment_names_another_api(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = scene.settings
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    assert scene_of(settings, 10) == Scene(settings, settings.api_url, "")
    assert not settings.home.exists()
    settings.home.mkdir()
    (settings.home / "api.password").write_text("secret")
    assert scene_of(settings, 10) == Scene(settings, settings.api_url, "samebits:secret")
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api/")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ada:lovelace")
    other = scene_of(settings, 10)
    assert other == Scene(settings, "https://prefect.example.com/api", "ada:lovelace")
    assert not other.here


def test_what_is_not_ok_is_followed_by_what_to_do_and_long_lines_are_wrapped() -> None:
    found = [
        ok("engine", "20.10, overlay2"),
        warning("worker", "It is slow.", "Give it a host of its own."),
        failed("registry default", "It does not answer, whatever is asked of it.", "Start it."),
        skipped("stacks", "engine"),
    ]
    assert lines(found, 60) == [
        "ok       engine            20.10, overlay2",
        "warning  worker            It is slow.",
        "                           → Give it a host of its own.",
        "failed   registry default  It does not answer, whatever is",
        "                           asked of it.",
        "                           → Start it.",
        "skipped  stacks            not looked at: engine comes first",
        "",
        "1 ok, 1 warning, 1 failed, 1 skipped",
    ]
    assert lines(found[:1], 60)[-1] == "1 ok, nothing wrong"


# -- how a check is run -----------------------------------------------------------------------


async def test_what_hangs_is_a_failed_check_and_keeps_nobody_from_ending(scene: Scene) -> None:
    released, before = threading.Event(), set(threading.enumerate())

    async def check() -> list[Finding]:
        await in_thread(released.wait)
        return []

    hasty = Scene(scene.settings, scene.api_url, limit_seconds=0.05)
    try:
        (found,) = await checked(hasty, "engine", check)
        # It has given up while its thread still hangs, which ends with the command: it is a daemon.
        (thread,) = [t for t in threading.enumerate() if t not in before]
        assert thread.daemon
    finally:
        released.set()
    thread.join()
    assert (found.verdict, found.said) == (Verdict.FAILED, "No answer within 0.05 s.")


async def test_an_error_is_a_failed_check_and_what_comes_after_is_left_out(scene: Scene) -> None:
    async def broken() -> list[Finding]:
        raise KeyError("surprise")

    async def away() -> list[Finding]:
        raise await in_thread(lambda: RegistryUnavailable("It is away.", why="No route."))

    async def never() -> list[Finding]:
        raise AssertionError

    (bug,) = await checked(scene, "bug", broken)
    assert bug.verdict is Verdict.FAILED
    assert "KeyError: 'surprise'" in bug.said
    (gone,) = await checked(scene, "registry", away)
    assert (gone.verdict, gone.said) == (Verdict.FAILED, "It is away. No route.")
    assert "RegistryUnavailable" in gone.hint
    assert await after(scene, [ok("api", ""), gone], "stack", never) == [
        skipped("stack", "registry")
    ]


# -- Prefect ----------------------------------------------------------------------------------


async def test_an_api_that_is_not_ready_or_refuses_the_password_says_which(scene: Scene) -> None:
    port, answers = scene.settings.prefect_port, {"/api/ready": (500, "no database")}
    with answering(port, answers):
        (found,) = await check_api(scene)
        assert found.verdict is Verdict.FAILED
        assert "500: no database" in found.said
        assert "database" in found.hint
        answers |= {"/api/ready": (200, ""), "/api/admin/version": (401, "")}
        (found,) = await check_api(scene)
        assert "refuses the password" in found.said
        answers["/api/admin/version"] = (200, '"1.0.0"')
        (found,) = await check_api(scene)
        assert found.verdict is Verdict.WARNING
        assert "1.0.0" in found.said


def test_the_kind_of_the_database_is_told_where_it_is_known(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = {"server": {"database": {"connection_url": "***", "driver": None}}}
    monkeypatch.delenv("PREFECT_API_DATABASE_CONNECTION_URL", raising=False)
    assert database_kind(scene, masked) == ""
    (scene.settings.home / "prefect").mkdir(parents=True)
    (scene.settings.home / "prefect" / "prefect.db").touch()
    assert database_kind(scene, masked) == "SQLite"
    assert database_kind(elsewhere(scene), masked) == ""
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://u:p@h/db")
    assert database_kind(scene, masked) == "PostgreSQL"
    told = {"server": {"database": {"driver": "sqlite+aiosqlite"}}}
    assert database_kind(elsewhere(scene), told) == "SQLite"


def worker(name: str, seconds: float | None) -> Worker:
    beat = None if seconds is None else NOW - timedelta(seconds=seconds)
    return Worker(name=name, work_pool_id=uuid4(), last_heartbeat_time=beat)


def pool(*, paused: bool = False) -> WorkPool:
    return WorkPool(
        name="samebits", type="process", is_paused=paused, default_queue_id=uuid4(), status=None
    )


def queue(*, paused: bool = False) -> WorkQueue:
    return WorkQueue(name="default", work_pool_id=uuid4(), is_paused=paused)


@pytest.mark.parametrize(
    ("workers", "a_pool", "queues", "verdict", "words"),
    [
        ([worker("old", 4000), worker("w", 12)], pool(), [queue()], "ok", "w, last heartbeat 12 s"),
        ([worker("old", 4000), worker("w", 300)], pool(), [queue()], "failed", "of w, is 5 min"),
        ([], pool(), [queue()], "failed", "None was ever online"),
        ([worker("w", None)], pool(), [queue()], "failed", "None was ever online"),
        ([worker("w", 1)], pool(paused=True), [queue()], "failed", "pool samebits is paused"),
        ([worker("w", 1)], pool(), [queue(paused=True)], "failed", "work queue default"),
    ],
)
def test_a_worker_has_to_be_online_and_allowed_to_work(
    workers: list[Worker], a_pool: WorkPool, queues: list[WorkQueue], verdict: str, words: str
) -> None:
    found = judge(workers, a_pool, queues, NOW, here=True)
    assert found.verdict.value == verdict
    assert words in found.said
    assert bool(found.hint) == (verdict != "ok")


def run(name: str, kind: StateType, minutes: float) -> FlowRun:
    when = NOW - timedelta(minutes=minutes)
    state: State[Any] = State(type=kind, timestamp=when)
    return FlowRun(flow_id=uuid4(), name=name, state=state, expected_start_time=when, run_count=1)


def test_runs_that_do_not_get_on_are_named() -> None:
    going = [run("builds", StateType.RUNNING, 30), run("starts", StateType.PENDING, 6)]
    waiting = [run("soon", StateType.SCHEDULED, -10), run("queued", StateType.SCHEDULED, 45)]
    stuck, late = judge_runs(going, waiting, NOW)
    assert "starts is PENDING for 6 min" in stuck.said
    assert "builds" not in stuck.said
    assert "1 runs wait for a worker, for 45 min" in late.said
    assert judge_runs(going[:1], waiting[:1], NOW) == [ok("runs", "1 go on, 1 wait")]
