"""A run that is cancelled stops within seconds, wherever it is, and leaves nothing behind.

Prefect cancels by a signal whose handler raises, in the middle of whatever is called.
"""

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from blocks.engine import DockerHost, Engine, Limits
from blocks.home import locks_home, one_at_a_time
from domain.settings import BuildSettings
from tests.blocks.test_engine import BASE, archive
from tests.conftest import unique
from tests.waiting import PATIENCE, wait_until

_SECONDS = 10


class Cancelled(BaseException):
    """As Prefect's TerminationSignal, it is no Exception."""


@contextmanager
def cancelled_once(ready: Callable[[], object]) -> Iterator[None]:
    """Raise in the block as soon as it is so; the block has to end by that, and soon."""

    def handler(*_: object) -> None:
        raise Cancelled

    def cancel() -> None:
        wait_until(lambda: bool(ready()), 60, "there is something to cancel")
        since.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGUSR1)

    since: list[float] = []
    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(Cancelled):
            yield
        assert time.monotonic() - since[0] < _SECONDS * PATIENCE
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def sleeps(seconds: str) -> bool:
    """Whether a process of this host, also one in a container, sleeps for just so long."""
    for entry in Path("/proc").iterdir():
        try:
            if (entry / "cmdline").read_bytes() == b"sleep\0" + seconds.encode() + b"\0":
                return True
        except OSError:
            continue
    return False


def a_while() -> str:
    """Seconds that nobody else sleeps for."""
    return str(100_000 + int(unique()[:6], 16))


@pytest.mark.engine
def test_a_build_is_stopped_also_in_the_engine(engine: Engine, name: str) -> None:
    seconds = a_while()
    files = {"Dockerfile": f"ARG BASE\nFROM $BASE\nRUN sleep {seconds}"}
    settings = BuildSettings(args={"BASE": BASE})
    with cancelled_once(lambda: sleeps(seconds)):
        engine.build(archive(files), settings, {}, f"{name}:cancelled", print)
    wait_until(lambda: not sleeps(seconds), _SECONDS, "the build has ended")
    assert engine.image_id(f"{name}:cancelled") is None


@pytest.mark.engine
def test_tests_are_stopped_and_their_container_is_removed(engine: Engine) -> None:
    seconds, labels = a_while(), {"samebits.run": unique()}
    limits = Limits(memory_mib=64, processes=16, timeout_seconds=600)
    with cancelled_once(lambda: sleeps(seconds)):
        engine.run(engine.image_id(BASE) or "", ["sleep", seconds], limits, labels, print)
    assert not sleeps(seconds)
    assert not engine.containers(labels)


class Slow(BaseHTTPRequestHandler):
    """A registry that has nothing, and takes for ever to take it; from `hurry` on, what it gets."""

    uploads, hurry, broken_off = threading.Event(), threading.Event(), threading.Event()

    def do_GET(self) -> None:
        self._answer(200)

    def do_HEAD(self) -> None:
        self._answer(404)

    def do_POST(self) -> None:
        self._answer(202)

    def do_PATCH(self) -> None:
        self.uploads.set()
        with contextlib.suppress(OSError):
            while self.rfile.read1(4096):
                self.hurry.wait(0.05)
        self.broken_off.set()
        self.close_connection = True

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Location", f"http://{self.headers['Host']}/upload")
        self.send_header("Docker-Upload-UUID", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.engine
def test_a_push_is_broken_off_also_in_the_engine(engine: Engine, docker_host: DockerHost) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        repository = f"127.0.0.1:{server.server_port}/hello"
        engine.tag(engine.image_id(BASE) or "", repository, "cancelled")
        try:
            with cancelled_once(Slow.uploads.is_set), Engine(docker_host) as own:
                own.push(repository, "cancelled", None)
            gc.collect()  # as the end of the run's process does, it closes the connection
            Slow.hurry.set()  # megabytes are under way, and its end comes after them
            assert Slow.broken_off.wait(_SECONDS * PATIENCE), "the engine goes on"
        finally:
            engine.remove_image(f"{repository}:cancelled")
            server.shutdown()


def test_waiting_for_another_run_of_this_host_is_broken_off() -> None:
    held, waits, enough = threading.Event(), threading.Event(), threading.Event()

    def other_run() -> None:
        with one_at_a_time("build"):
            held.set()
            enough.wait(60)

    thread = threading.Thread(target=other_run)
    thread.start()
    try:
        held.wait()
        with cancelled_once(waits.is_set):
            waits.set()
            with one_at_a_time("build"):
                pass
    finally:
        enough.set()
        thread.join()
    with FileLock(locks_home() / "build.lock", timeout=0) as free:
        assert free.is_locked
