"""The whole system on one host: what it starts, it stops, and nothing else."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.fernet import Fernet
from prefect.settings import temporary_settings

from blocks.docker_stack import DockerStack
from blocks.engine import DockerHost, Engine, Service
from blocks.loading import load_all
from blocks.prefect_api import POOL, prefect_api
from deployments import host_images
from deployments.engine_start import start_engine
from deployments.environment import api_password, child_environment, client_settings
from deployments.processes import Child, answers, check_port
from deployments.provisioning import provision
from deployments.secret_files import secret_file
from deployments.settings import SystemSettings
from deployments.worker import end_all, worker_name
from domain.errors import SamebitsError, StartFailed

SERVER, RECEIVER, WORKER, ENGINE = "prefect-server", "receiver", "worker", "dockerd"
_STOPPED = (WORKER, RECEIVER, SERVER)
"""The order of stopping: runs and messages need the server to the last"""
_SHORTEST_LIFE = 10.0
_REGISTRY_SECONDS = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Starting:
    """A program that was started, and how it is seen to be ready."""

    child: Child
    ready: Callable[[], bool]
    seconds: float
    """How long that may take"""

    def wait(self) -> None:
        """Return once it is ready; raises StartFailed."""
        self.child.wait_until(self.ready, self.seconds)


@dataclass
class System:
    """A running system; `running()` starts and stops it."""

    settings: SystemSettings
    say: Say
    children: list[Child] = field(default_factory=list)
    engine: Child | None = None
    has_registry: bool = False
    has_answered: bool = False
    """Whether the server has: it can be asked for stacks and runs"""
    _registry_seen: float = 0.0

    @contextlib.contextmanager
    def running(self) -> "Iterator[System]":
        """Start everything; at the end, or at any fault, stop what was started."""
        with temporary_settings(client_settings(self.settings)):
            try:
                self._start()
                yield self
            finally:
                self._stop()

    def look_after(self) -> None:
        """Start again what has ended by itself: a part, the engine, or the registry."""
        if part := self.ended():
            self.revive(part)
        elif self.has_registry and time.monotonic() - self._registry_seen > _REGISTRY_SECONDS:
            self._registry_seen = time.monotonic()
            self._revive_registry()

    def ended(self) -> Child | None:
        """A part that ended by itself, if any; first what the others need."""
        children = sorted(self.children, key=lambda child: -_STOPPED.index(child.name))
        parts = [self.engine, *children] if self.engine else children
        return next((part for part in parts if not part.running), None)

    def revive(self, part: Child) -> None:
        """Start a part again that has ended by itself; StartFailed if it ends at once."""
        if part.age_seconds < _SHORTEST_LIFE:
            raise StartFailed(
                f"{part.name} ends by itself as soon as it is started.",
                hint=f"Everything is stopped. Its whole log is {part.log}; the last lines:",
                log=part.log.read_text(errors="replace").splitlines(),
            )
        self.say(f"{part.name} has ended by itself: it is started again. Its log is {part.log}")
        part.stop()
        if part is self.engine:
            self._engine()
            return
        self.children.remove(part)
        if part.name == SERVER:
            self._server().wait()
        elif part.name == RECEIVER:
            self._service().wait()
        elif part.name == WORKER:
            # It died alone, perhaps of a run: that is not started again without a person. It is not
            # waited for: what it needs may be away, too, and has its turn.
            self._worker(restart=False)

    # -- start --------------------------------------------------------------------------------

    def _start(self) -> None:
        self._check_ports()
        self._engine()
        server = self._server()  # it makes its database, at the first start, beside the rest
        self._step("images", self._images)
        self._step("registry", self._registry)
        self._step("Prefect server", server.wait)
        self.has_answered = True
        self._step(
            "work pool, blocks and deployments", lambda: asyncio.run(provision(self.settings))
        )
        self._step("stacks", lambda: self._each_stack("resume"))
        self._step("receiver and worker", self._service_and_worker)

    def _step(self, name: str, action: Callable[[], None]) -> None:
        started = time.monotonic()
        action()
        self.say(f"  {name:34} {time.monotonic() - started:5.1f} s")

    def _check_ports(self) -> None:
        settings = self.settings
        check_port(settings.prefect_port, "the Prefect server", "SAMEBITS_PREFECT_PORT")
        check_port(settings.receiver_port, "the receiver", "SAMEBITS_RECEIVER_PORT")
        if not (settings.home / "prefect").exists():  # later on, the blocks of the stacks decide
            check_port(settings.stage_port, "the stack stage", "SAMEBITS_STAGE_PORT")
            check_port(settings.prod_port, "the stack prod", "SAMEBITS_PROD_PORT")

    def _engine(self) -> None:
        self.engine = start_engine(child_environment(self.settings), self._log(ENGINE))

    def _images(self) -> None:
        with Engine(DockerHost()) as engine:
            host_images.ensure_images(engine)
            engine.sandbox_network()

    def _registry(self) -> None:
        with Engine(DockerHost()) as engine:
            engine.remove(self._registry_name)
            check_port(self.settings.registry_port, "the registry", "SAMEBITS_REGISTRY_PORT")
            self.has_registry = True
            labels = {"samebits.role": "registry", "samebits.system": self.settings.name}
            # A network of its own: no code under test can reach it.
            engine.network(self._registry_name, labels)
            engine.create(
                Service(
                    self._registry_name,
                    host_images.registry().name,
                    labels=labels,
                    network=self._registry_name,
                    ports={5000: ("127.0.0.1", self.settings.registry_port)},
                    volumes={self._registry_name: "/var/lib/registry"},
                )
            )
        url = f"http://127.0.0.1:{self.settings.registry_port}/v2/"
        _wait(lambda: answers(url), 60, "The registry does not answer.")

    def _server(self) -> Starting:
        port = str(self.settings.prefect_port)
        child = self._child(
            SERVER,
            ["deployments.prefect_server", "--host", "127.0.0.1", "--port", port],
            PREFECT_SERVER_API_AUTH_STRING=api_password(self.settings),
            PREFECT_SERVER_ENCRYPTION_KEY=secret_file(
                self.settings.home / "encryption.key", lambda: Fernet.generate_key().decode()
            ),
        )
        return Starting(child, lambda: answers(f"{self.settings.api_url}/ready"), 240)

    def _service_and_worker(self) -> None:
        """Side by side: each loads Prefect for seconds."""
        # From this thread, for a child dies with the thread that has started it.
        for part in (self._service(), self._worker()):
            part.wait()

    def _service(self) -> Starting:
        child = self._child(RECEIVER, ["deployments.cli", "receive"])
        url = f"http://127.0.0.1:{self.settings.receiver_port}/health"
        return Starting(child, lambda: answers(url), 180)

    def _worker(self, *, restart: bool = True) -> Starting:
        """The worker, which is ready once its heart beats."""
        name = worker_name(self.settings)
        since = datetime.now(UTC)
        how = [] if restart else ["--no-restart"]
        child = self._child(WORKER, ["deployments.cli", "work", "--name", name, *how])
        return Starting(child, lambda: asyncio.run(_worker_online(name, since)), 180)

    def _child(self, name: str, module: list[str], **secrets: str) -> Child:
        argv = [sys.executable, "-m", *module]
        child = Child(name, argv, child_environment(self.settings) | secrets, self._log(name))
        self.children.append(child)
        return child

    def _log(self, name: str) -> Path:
        return self.settings.home / "logs" / f"{name}.log"

    # -- stop ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop what was started; one that resists keeps no other from being stopped."""
        stopping: list[Callable[[], None]] = []
        # Not the order in which they were started: one may have been started again.
        for child in sorted(self.children, key=lambda child: _STOPPED.index(child.name)):
            if child.name == SERVER and self.has_answered:
                stopping.append(lambda: self._each_stack("halt"))
                stopping.append(self._end_runs)
            stopping.append(child.stop)
        if self.has_registry:
            stopping.append(self._stop_registry)
        if self.engine:
            stopping.append(self.engine.stop)
        for stop in stopping:
            try:
                stop()
            except SamebitsError as error:
                self.say(f"while stopping: {error}")

    def _end_runs(self) -> None:
        """The worker does so itself, unless it had to be killed."""
        asyncio.run(end_all(self.settings, worker_name(self.settings)))

    def _revive_registry(self) -> None:
        try:
            with Engine(DockerHost()) as engine:
                found = engine.container(self._registry_name)
                if found and not found.running:
                    self.say(f"The registry {found.name} has ended: it is started again.")
                    engine.start(found.name)
                    # An engine that was killed starts nothing again that it finds alive.
                    self._each_stack("revive")
        except SamebitsError as error:
            self.say(f"the registry: {error}")

    def _stop_registry(self) -> None:
        with Engine(DockerHost()) as engine:
            engine.stop(self._registry_name, grace_seconds=5)

    def _each_stack(self, action: str) -> None:
        """Resume, revive or halt this host's stacks; one that resists is only told of."""

        async def stacks() -> dict[str, DockerStack]:
            async with prefect_api() as client:
                return await load_all(client, DockerStack)

        for name, stack in asyncio.run(stacks()).items():
            if stack.engine.base_url:
                continue  # another engine, which runs on when this host is switched off
            try:
                getattr(stack, action)(name)
            except SamebitsError as error:
                self.say(f"  the stack {name}: {error}")

    @property
    def _registry_name(self) -> str:
        return f"{self.settings.name}-registry"


async def _worker_online(name: str, since: datetime) -> bool:
    """Whether the worker of this name has sent a heartbeat after `since`."""
    async with prefect_api() as client:
        workers = await client.read_workers_for_work_pool(POOL)
    beats = [worker.last_heartbeat_time for worker in workers if worker.name == name]
    return any(beat >= since for beat in beats if beat)


def _wait(ready: Callable[[], bool], seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise StartFailed(message, hint="See docker logs of its container.")
        time.sleep(0.1)
