"""The parent of warm runs: what one run does to itself reaches neither the next, nor the parent."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.settings import PREFECT_LOGGING_COLORS, temporary_settings

from blocks.process import WORKER_PID, is_run
from deployments.warm import installed
from deployments.warm.configuration import settings_as_variables
from deployments.warm.forking import Forked, Parent
from deployments.warm.installed import fingerprint
from deployments.warm.known import Known, known
from domain.errors import StartFailed
from tests.waiting import wait_until

CHILD = "tests.warm_child"
IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")


class Runs:
    """A parent, and what its runs have found."""

    def __init__(self, parent: Parent, folder: Path) -> None:
        self.parent, self._folder, self._number = parent, folder, 0
        self.known: Known = {}

    async def start(self, do: str, **environment: str) -> tuple[Forked, Path]:
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        variables = {"PATH": os.environ["PATH"], "DO": do, **environment}
        run = f"run-{self._number}"
        return await self.parent.fork(run, variables, folder, self.known, CHILD), folder

    async def run(self, do: str, **environment: str) -> tuple[int, dict[str, Any]]:
        forked, folder = await self.start(do, **environment)
        async with asyncio.timeout(60):
            await forked.ended.wait()
        assert forked.returncode is not None
        return forked.returncode, json.loads((folder / "found.json").read_text())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parent() -> AsyncIterator[Parent]:
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_LOGGING_COLORS: False}):
        patch.setenv("PREFECT_LOGGING_COLORS", "false")  # which Prefect gives to a run as "False"
        parent = await Parent.start()
    yield parent
    parent.leave()
    async with asyncio.timeout(30):
        await parent.left()


@pytest.fixture
def runs(parent: Parent, tmp_path: Path) -> Runs:
    return Runs(parent, tmp_path)


@IN_ONE_LOOP
async def test_a_run_has_its_own_environment_and_folder_and_nothing_of_the_workers(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_THE_WORKERS", "1")
    code, found = await runs.run("end", MINE="yes")
    assert code == 0
    assert {"PATH", "DO", "MINE"} <= set(found["environment"])
    assert "ONLY_THE_WORKERS" not in found["environment"]
    assert found["folder"] == str(tmp_path / "1")
    assert found["threads"] == 1
    assert found["handlers"] == str(signal.SIG_DFL)


@IN_ONE_LOOP
@pytest.mark.parametrize(
    ("do", "code"),
    [("end", 0), ("exit 3", 3), ("crash", -signal.SIGSEGV), ("raise", 1), ("memory", 1)],
)
async def test_however_a_run_ends_the_next_one_finds_nothing_of_it(
    runs: Runs, do: str, code: int
) -> None:
    ended, first = await runs.run(do)
    assert ended == code
    ended, second = await runs.run("end")
    assert ended == 0
    assert second["pid"] != first["pid"]
    assert second["parent"] == first["parent"]
    assert "SPOILT" not in second["environment"]
    assert second["spoilt"] == ""
    assert second["modules"] == first["modules"]
    assert "spoilt_by_the_run_before" not in second["modules"]


@IN_ONE_LOOP
async def test_a_run_finds_everything_loaded(runs: Runs) -> None:
    _, found = await runs.run("end")
    wanted = {"prefect.flow_engine", "flows.pipeline", "docker", "prefect_aws", "blocks.aws"}
    assert wanted <= set(found["modules"])


@IN_ONE_LOOP
async def test_what_the_worker_knows_is_known_to_that_run_only(runs: Runs) -> None:
    flow = Flow(id=uuid4(), name="pipeline", labels={})
    run, storage = FlowRun(id=uuid4(), flow_id=flow.id, name="a run"), uuid4()
    runs.known = known(run, storage, {"flow": flow}, {"flow": flow.id})
    _, found = await runs.run("end")
    assert found["known"] == {f"flow.{flow.id}": "pipeline"}
    assert (found["run"], found["storage"]) == ("a run", [str(storage), str(storage)])
    runs.known = {}
    _, found = await runs.run("end")
    assert (found["known"], found["run"], found["storage"]) == ({}, "", [])


@IN_ONE_LOOP
async def test_a_run_says_who_has_taken_it_and_does_not_ask_what_its_worker_knows(
    runs: Runs,
) -> None:
    url = "http://127.0.0.1:9/api"
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="a run")
    runs.known = {"taken_by": "ours@this-host"} | known(run, None, {}, {})
    own = {"PREFECT__FLOW_RUN_ID": str(run.id)}
    _, found = await runs.run("end", PREFECT_API_URL=url, **own)
    said = {"flow_version": "1", "infrastructure_pid": f"ours@this-host:{found['pid']}"}
    of_the_run = "/flow_runs/{id}"
    assert found["asked"] == [
        ["PATCH", of_the_run, said],
        ["GET", of_the_run, None],  # when it is read again
        ["a run", 1, True],
        True,
    ]


@IN_ONE_LOOP
@pytest.mark.parametrize("taken_by", [{}, {"taken_by": "ours@this-host"}])
@pytest.mark.parametrize("own", [True, False])
async def test_of_a_run_that_was_tried_before_prefect_is_asked_how_it_stands(
    runs: Runs, taken_by: Known, *, own: bool
) -> None:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="a run", run_count=1)
    runs.known = taken_by | known(run, None, {}, {})
    this = {"PREFECT__FLOW_RUN_ID": str(run.id if own else uuid4())}
    _, found = await runs.run("end", **this)
    methods = [method for method, *_ in found["asked"][:-1]]
    assert methods == ["PATCH", "GET", "GET"]
    written = found["asked"][0][2]
    assert ("infrastructure_pid" in written) == bool(taken_by and own)


@IN_ONE_LOOP
async def test_a_run_with_the_workers_settings_does_not_read_them_anew(runs: Runs) -> None:
    with temporary_settings({PREFECT_LOGGING_COLORS: False}):
        given = settings_as_variables()
    assert given["PREFECT_LOGGING_COLORS"] == "False"
    _, found = await runs.run("end", **given)
    assert found["settings_read"] is False
    _, found = await runs.run("end", **given | {"PREFECT_LOGGING_LEVEL": "DEBUG"})
    assert found["settings_read"] is True


@IN_ONE_LOOP
async def test_what_a_run_has_left_for_its_end_is_done(runs: Runs, tmp_path: Path) -> None:
    code, found = await runs.run("leave something")
    assert code == 0
    assert found["suspension"] == "deployments.warm.suspending"
    assert (tmp_path / "1" / "at the end").exists()
    assert (tmp_path / "1" / "of a thread").exists()


@IN_ONE_LOOP
async def test_the_log_is_written_as_it_is_unless_it_is_to_have_colours(runs: Runs) -> None:
    _, found = await runs.run("end", PREFECT_LOGGING_COLORS="false")
    assert found["logged"] == "a :bug: it is\n"
    _, found = await runs.run("end", PREFECT_LOGGING_COLORS="true")
    assert "\N{BUG}" in found["logged"]


@IN_ONE_LOOP
async def test_no_schema_of_a_model_is_left_to_a_run(runs: Runs) -> None:
    _, found = await runs.run("end")
    assert found["incomplete_models"] == []


@IN_ONE_LOOP
async def test_runs_go_on_side_by_side_and_one_that_is_killed_ends_alone(runs: Runs) -> None:
    (one, _), (other, folder) = await runs.start("wait"), await runs.start("wait")
    wait_until((folder / "found.json").exists, 30, "it runs")
    os.kill(one.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        await one.ended.wait()
    assert one.returncode == -signal.SIGKILL
    assert not other.ended.is_set()
    code, _ = await runs.run("end")
    assert code == 0
    os.kill(other.pid, signal.SIGTERM)
    async with asyncio.timeout(30):
        await other.ended.wait()
    assert other.returncode == -signal.SIGTERM


@IN_ONE_LOOP
async def test_a_process_is_called_by_its_run_and_known_by_it(runs: Runs) -> None:
    forked, folder = await runs.start("wait")
    wait_until((folder / "found.json").exists, 30, "it runs")
    title = json.loads((folder / "found.json").read_text())["title"]
    assert title.rstrip("\0 ") == "samebits run run-1"
    assert is_run(forked.pid, "run-1")
    assert not is_run(forked.pid, "run-2")
    os.kill(forked.pid, signal.SIGKILL)
    await forked.ended.wait()
    assert not is_run(forked.pid, "run-1")


@IN_ONE_LOOP
async def test_runs_end_with_their_parent_and_nobody_waits_for_them_for_ever(
    tmp_path: Path,
) -> None:
    parent = await Parent.start()
    forked, folder = await Runs(parent, tmp_path).start(
        "wait", PREFECT__FLOW_RUN_ID="run-1", **{WORKER_PID: str(os.getpid())}
    )
    wait_until((folder / "found.json").exists, 30, "it runs")
    os.kill(json.loads((folder / "found.json").read_text())["parent"], signal.SIGKILL)
    async with asyncio.timeout(30):
        await forked.ended.wait()
    assert forked.returncode == -signal.SIGKILL
    assert not parent.alive
    wait_until(lambda: not is_run(forked.pid, "run-1"), 30, "the kernel has ended it")
    with pytest.raises(StartFailed, match="has died"):
        await parent.fork("run-2", {}, tmp_path, {})


@IN_ONE_LOOP
async def test_a_parent_that_is_told_to_leave_ends_after_its_last_run(tmp_path: Path) -> None:
    parent = await Parent.start()
    forked, folder = await Runs(parent, tmp_path).start("wait")
    parent.leave()
    wait_until((folder / "found.json").exists, 30, "it runs on")
    assert parent.alive
    os.kill(forked.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        await parent.left()
    assert not parent.alive


@IN_ONE_LOOP
async def test_a_parent_that_does_not_start_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StartFailed, match="does not start"):
        await Parent.start()


def test_when_a_worker_dies_its_parent_and_its_runs_die_with_it(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout
    forked = int(worker.stdout.readline())
    try:
        found = tmp_path / "1" / "found.json"
        wait_until(found.exists, 60, "it runs")
        wait_until(lambda: bool(found.read_text()), 10, "it has said what it found")
        parent = json.loads(found.read_text())["parent"]
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    wait_until(lambda: not Path(f"/proc/{parent}").exists(), 30, "the parent is gone")
    wait_until(lambda: not Path(f"/proc/{forked}").exists(), 30, "the run is gone")


WORKER = """
import asyncio, os, sys
from pathlib import Path
from blocks.process import WORKER_PID
from deployments.warm.forking import Parent
from tests.deployments.test_warm_parent import Runs

async def main():
    runs = Runs(await Parent.start(), Path(sys.argv[1]))
    run = {"PREFECT__FLOW_RUN_ID": "run-1", WORKER_PID: str(os.getpid())}
    forked, _ = await runs.start("wait", **run)
    print(forked.pid, flush=True)
    await forked.ended.wait()

asyncio.run(main())
"""


def test_a_change_of_the_installed_code_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("domain", "flows"):
        (tmp_path / package).mkdir()
    (tmp_path / "flows" / "pipeline.py").write_text("one")
    monkeypatch.setattr(installed, "_PROJECT", tmp_path)
    before = fingerprint()
    assert fingerprint() == before
    os.utime(tmp_path / "flows" / "pipeline.py", (1, 1))
    changed = fingerprint()
    assert changed != before
    (tmp_path / "domain" / "new.py").write_text("")
    assert fingerprint() not in (before, changed)
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "domain" / "new.py").unlink()
    assert fingerprint() == changed
