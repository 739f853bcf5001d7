"""The two systems that run the script: the floor, which is a webhook, and Buildbot."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.numbers import Burst, Sample, descendants, memory_mib
from bench.pushes import Repository, Webhook, wait_for

_HERE = Path(__file__).parent
_WHOLE_SECONDS, _DRAIN_SECONDS = 120, 600


class Scripted:
    """A running system whose steps write into two files when they begin, and when it is live."""

    def __init__(self, webhook: Webhook, folder: Path, pid: int) -> None:
        self._webhook, self._pid = webhook, pid
        self._first, self._channel = folder / "first", folder / "channel"

    def pipeline(self, repository: Repository) -> Sample:
        """Push a change, and see it live."""
        branch = f"bench/{time.time_ns()}"
        sha = repository.commit(branch)
        began = self._webhook.push(sha, branch)
        live = f"{branch} is live\n"

        def is_live() -> float | None:
            return time.time() if live in _text(self._channel) else None

        ended = wait_for(is_live, _WHOLE_SECONDS, f"the end of {branch}")
        begun = dict(line.split() for line in _text(self._first).splitlines())
        return Sample(float(begun[branch]) - began, ended - began)

    def burst(self, repository: Repository, number: int) -> Burst:
        """Push to many branches at once."""
        at = time.time_ns()
        branches = [f"burst/{at}-{n}" for n in range(number)]
        began = self._webhook.burst(repository.commit_nothing(branches), branches)
        most = 0.0

        def finished() -> int:
            return sum(f"burst/{at}-" in line for line in _text(self._channel).splitlines())

        deadline = time.time() + _DRAIN_SECONDS
        ended, last = time.time(), 0
        while last < number and time.time() < min(deadline, ended + 30):
            if (now := finished()) != last:
                ended, last = time.time(), now
            most = max(most, memory_mib(descendants(self._pid)))
            time.sleep(0.02)
        return Burst(number, last, round(ended - began, 2), most)

    def processes(self) -> list[int]:
        """All of it."""
        return descendants(self._pid)


@contextlib.contextmanager
def floor(repository: Path, folder: Path, image: str, ports: tuple[int, int]) -> Iterator[Scripted]:
    """The webhook that runs the script."""
    web, service = ports
    variables = _variables(repository, folder, image, service)
    argv = [sys.executable, "-m", "bench.hook", str(web)]
    with _process(argv, variables, folder, web, service) as pid:
        yield Scripted(Webhook(f"http://127.0.0.1:{web}/", repository), folder, pid)


@contextlib.contextmanager
def buildbot(
    repository: Path, folder: Path, image: str, ports: tuple[int, int], program: Path
) -> Iterator[Scripted]:
    """Buildbot, which runs its steps one by one."""
    web, service = ports
    master = folder / "master"
    subprocess.run([program, "create-master", "--quiet", master], check=True, capture_output=True)
    shutil.copy(_HERE / "buildbot.cfg", master / "master.cfg")
    variables = _variables(repository, folder, image, service) | {
        "SCRIPT": str(_HERE / "steps.sh"),
        "FOLDER": str(folder),
        "WEB_PORT": str(web),
    }
    argv = [str(program), "start", "--nodaemon", str(master)]
    with _process(argv, variables, folder, web, service) as pid:
        url = f"http://127.0.0.1:{web}/change_hook/github"
        yield Scripted(Webhook(url, repository), folder, pid)


def _variables(repository: Path, folder: Path, image: str, port: int) -> dict[str, str]:
    # Debian's client builds with BuildKit by itself; a newer one needs its plugin buildx.
    older = Path("/usr/bin/docker")
    return {
        "REPOSITORY": str(repository),
        "IMAGE": image,
        "PORT": str(port),
        "FIRST": str(folder / "first"),
        "CHANNEL": str(folder / "channel"),
        "DOCKER": str(older) if older.exists() else "docker",
        "DOCKER_BUILDKIT": "1",
    }


@contextlib.contextmanager
def _process(
    argv: list[str], variables: Mapping[str, str], folder: Path, web: int, service: int
) -> Iterator[int]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: _listens(web), 60, f"{argv[0]} on port {web}")
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        subprocess.run(
            [variables["DOCKER"], "rm", "--force", f"bench-{service}"],
            capture_output=True,
            check=False,
        )


def _listens(port: int) -> float | None:
    with socket.socket() as probe:
        return 1.0 if probe.connect_ex(("127.0.0.1", port)) == 0 else None


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
