"""`samebits up` as a person runs it, and what can be seen of it from outside."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.settings import temporary_settings

from blocks.docker_stack import DockerStack
from blocks.engine import DockerHost
from blocks.prefect_api import prefect_api
from deployments import example
from deployments.environment import client_settings, own_environment
from deployments.processes import answers
from deployments.settings import SystemSettings
from tests.conftest import remove_system
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "deployments.cli", "up"]


class Up:
    """A system that is started by its command."""

    def __init__(self, settings: SystemSettings) -> None:
        self.settings, self.home = settings, settings.home
        self.bare = example.bare_repository(settings)
        self.log = settings.home.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The environment that it is started in."""
        return os.environ | own_environment(self.settings)

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def told(self) -> str:
        """What the channel was told."""
        channel = self.settings.channel_file
        return channel.read_text() if channel.exists() else ""

    def serves(self, version: str) -> bool:
        """Whether the stack `stage` serves this version."""
        try:
            url = f"http://127.0.0.1:{self.settings.stage_port}/"
            return version in httpx.get(url, trust_env=False, timeout=2).text
        except httpx.HTTPError:
            return False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Up, and then down by Ctrl-C if it was not killed before."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Start it, if it does not run, and wait until it is up."""
        if self._process:
            return
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                COMMAND,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: "Ctrl-C stops" in self.said, 150, "it is up")

    def stop(self) -> None:
        """Ctrl-C, and nothing may be left."""
        if not self._process:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGINT)
        assert process.wait(200) == 0, self.said
        assert "Traceback" not in self.said
        assert not self.processes()

    def cut_the_power(self) -> None:
        """Kill everything at once, but for the containers: none sees another one die."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        wait_until(lambda: not self.processes(), 10, "all are dead")
        if self._process:
            self._process.wait(10)
            self._process = None

    def answers(self) -> bool:
        """Whether its Prefect server does."""
        return answers(f"{self.settings.api_url}/ready")

    def processes(self, words: str = "") -> list[int]:
        """The processes of this system whose command holds these words."""
        return [pid for pid, command in _processes_of(str(self.home)) if words in command]

    @contextlib.asynccontextmanager
    async def api(self) -> AsyncIterator[PrefectClient]:
        """Its Prefect API; what is called meanwhile finds it, too."""
        with temporary_settings(client_settings(self.settings)):
            async with prefect_api() as client:
                yield client


@contextlib.contextmanager
def up(settings: SystemSettings, host: DockerHost) -> Iterator[Up]:
    """A system that is not started yet; afterwards nothing of it is left."""
    example.take_as_known(settings)
    whole = Up(settings)
    try:
        yield whole
    finally:
        whole.stop()
        for stack, port in (("stage", settings.stage_port), ("prod", settings.prod_port)):
            DockerStack(port=port, prefix=settings.name).destroy(stack)
        remove_system(host, settings)


def _processes_of(home: str) -> list[tuple[int, str]]:
    """The processes whose environment names this data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"SAMEBITS_HOME={home}\0" in text:
                found.append((int(entry.name), (entry / "cmdline").read_text()))
    return found
