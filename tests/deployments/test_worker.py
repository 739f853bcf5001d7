"""`samebits work` where no API answers: it says so, waits, and stops when it is asked to."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.settings import SystemSettings
from deployments.warm import patience
from deployments.warm.patience import Patience
from deployments.worker import work
from domain.errors import BadInput
from tests.conftest import free_port
from tests.waiting import wait_until

SCRIPT = "trap '' INT; exec \"$0\" -m deployments.cli work"
"""As a script starts it in the background"""


@contextmanager
def worker(home: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker that was started by a script with SIGINT ignored."""
    url = f"http://127.0.0.1:{free_port()}/api"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["sh", "-c", SCRIPT, sys.executable],
            env=os.environ | {"SAMEBITS_HOME": str(home), "PREFECT_API_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_worker_without_an_api_waits_for_it_and_only_one_of_a_name_does_so_on_a_host(
    home: Path, tmp_path: Path
) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    with worker(home, log) as first:
        wait_until(lambda: "the worker waits: Prefect's API" in log.read_text(), 60, "it says so")
        with worker(home, other) as second:
            assert second.wait(60) == 1
        assert "A worker called samebits-worker runs here already." in other.read_text()
        first.terminate()
        assert first.wait(10) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("name", ["a/b", "50%", "two words", "a\nb"])
def test_a_name_that_no_file_and_no_address_may_have_is_refused(home: Path, name: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(BadInput, match="is no name of a worker"),
    ):
        work(SystemSettings(home=home), name)
    assert not home.exists()


def test_a_worker_that_is_not_told_where_the_api_is_says_what_to_set(
    home: Path,
) -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(BadInput, match="Set PREFECT_API_URL"),
    ):
        work(SystemSettings(home=home))
    assert not home.exists()


@pytest.mark.parametrize("status", [None, 500, 503])
async def test_a_worker_waits_for_an_api_that_is_away(
    status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_AWAY_SECONDS", 0)
    away = True

    async def ask() -> str:
        if away:
            raise _answered(status) if status else httpx.ConnectError("refused")
        return "an answer"

    patient = Patience()
    # Prefect's own gives up after the twelfth
    assert {await patient(ask, "nothing") for _ in range(20)} == {"nothing"}
    away = False
    assert await patient(ask, "nothing") == "an answer"


async def test_a_worker_that_the_api_refuses_ends() -> None:
    async def ask() -> None:
        raise _answered(401)

    with pytest.raises(httpx.HTTPStatusError):
        await Patience()(ask, None)


def _answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://api")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))
