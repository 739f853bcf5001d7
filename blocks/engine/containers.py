"""Containers that stay: versions of a service, the traffic switch, the embedded registry."""

import http
import io
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import docker.errors
from docker.types import LogConfig
from prefect_docker.host import DockerHost

from blocks.engine.faults import engine_faults
from blocks.engine.networks import Networks
from blocks.engine.shell import Shell
from blocks.process import in_run
from domain.errors import LOG_TAIL_LINES, EngineRefused

_MOST_LINE = 2000
_NAME_SECONDS = 0.5
_KEEP = {"Name": "unless-stopped"}
_LOG = LogConfig(type="json-file", config={"max-size": "20m", "max-file": "2"})


@dataclass(frozen=True)
class Container:
    """A container as it is now."""

    id: str
    name: str
    running: bool
    exit_code: int
    image_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    kept: bool = False
    """Whether it is started again when it ends: a version that has served is"""


@dataclass(frozen=True)
class Service:
    """A container that is to stay."""

    name: str
    image: str
    labels: Mapping[str, str]
    network: str | None = None
    address: str | None = None
    """Fixed address in the network"""
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    """Port inside to address and port on the host"""
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Name of a volume to its path inside"""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Path inside to content, laid there before it starts"""
    memory_mib: int | None = None
    keep: bool = True
    """Whether it is started again when it ends, or when the engine restarts"""


class Containers(Networks):
    """Starting, watching and ending containers."""

    _shells_of_run: ClassVar[dict[tuple[int, str], Shell]] = {}

    def __init__(self, host: DockerHost) -> None:
        super().__init__(host)
        self._shells = self._shells_of_run if in_run() else {}

    def __exit__(self, *error: object) -> None:
        if not in_run():
            for _, name in list(self._shells):
                self._leave(name)
        super().__exit__(*error)

    def address(self, name: str) -> str:
        """The address of a container in its network."""
        with engine_faults(f"inspecting {name}"):
            networks = self._docker.containers.get(name).attrs["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def create(self, service: Service) -> str:
        """Create a container and start it; returns its ID."""
        networking = None
        if service.network:
            endpoint = self._docker.api.create_endpoint_config(ipv4_address=service.address)
            networking = {service.network: endpoint}
        with engine_faults(f"starting {service.name}"):
            make = partial(
                self._docker.containers.create,
                service.image,
                name=service.name,
                labels=dict(service.labels),
                environment=dict(service.environment),
                network=service.network,
                networking_config=networking,
                ports={f"{inside}/tcp": at for inside, at in service.ports.items()},
                volumes={v: {"bind": at, "mode": "rw"} for v, at in service.volumes.items()},
                restart_policy=_KEEP if service.keep else None,
                security_opt=["no-new-privileges"],
                log_config=_LOG,
                mem_limit=f"{service.memory_mib}m" if service.memory_mib else None,
            )
            try:
                container = make()
            except docker.errors.APIError as error:
                # One that somebody has just removed is gone a moment before its name is free.
                if not _is_name_taken(error) or self.container(service.name):
                    raise
                time.sleep(_NAME_SECONDS)
                container = make()
            try:
                for path, content in service.files.items():
                    folder, _, file = path.rpartition("/")
                    container.put_archive(folder, _tar_of(file, content))
                container.start()
            except BaseException:
                container.remove(force=True)
                raise
        return str(container.id)

    def keep(self, name: str) -> None:
        """Have a container started again when it ends or the engine restarts."""
        with engine_faults(f"keeping {name}"):
            self._docker.containers.get(name).update(restart_policy=_KEEP)

    def let_end(self, name: str) -> None:
        """Have a container not started again when it ends; one that is not there is fine."""
        with engine_faults(f"letting {name} end"), suppress(docker.errors.NotFound):
            self._docker.containers.get(name).update(restart_policy={"Name": "no"})

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """The containers that carry these labels, oldest first."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with engine_faults("listing containers"):
            # Others may remove one while it is looked at.
            found = self._docker.containers.list(
                all=True, filters={"label": wanted}, ignore_removed=True
            )
            return sorted((_seen(c) for c in found), key=lambda c: c.created)

    def container(self, name: str) -> Container | None:
        """A container by name or ID, None where there is none."""
        try:
            with engine_faults(f"looking for the container {name}"):
                return _seen(self._docker.containers.get(name))
        except EngineRefused as error:
            if isinstance(error.__cause__, docker.errors.NotFound):
                return None
            raise

    def ask(self, name: str, script: str) -> tuple[int, str] | None:
        """Run a shell script in a running container; returns its exit code and its output.

        None where the answer was lost on the way, which an engine may do; the script may have run.
        """
        shell = self.open_shell(name)
        with engine_faults(f"running a command in {name}"):
            try:
                answer = shell.ask(script)
            except ConnectionError:  # as where the container has ended, or was made anew
                answer = None
            except OSError:
                self._leave(name)
                raise
        if answer is None:
            self._leave(name)
        return answer

    def open_shell(self, name: str) -> Shell:
        """The shell in a running container, which takes the engine a while to begin."""
        key = (id(self._docker), name)
        if key not in self._shells:
            with engine_faults(f"opening a shell in {name}"):
                self._shells[key] = Shell(self._docker.api, name)
        return self._shells[key]

    def _leave(self, name: str) -> None:
        self._shells.pop((id(self._docker), name)).close()

    def tail(self, name: str, lines: int = LOG_TAIL_LINES) -> list[str]:
        """The last lines of a container's log."""
        with engine_faults(f"reading the log of {name}"):
            output = self._docker.containers.get(name).logs(tail=lines)
        return [line[:_MOST_LINE] for line in output.decode(errors="replace").splitlines()]

    def start(self, name: str) -> None:
        """Start a stopped container; one that runs is fine."""
        with engine_faults(f"starting {name}"):
            self._docker.containers.get(name).start()

    def rename(self, name: str, other: str) -> None:
        """Give a container another name."""
        with engine_faults(f"renaming {name}"):
            self._docker.containers.get(name).rename(other)

    def stop(self, name: str, grace_seconds: int = 10) -> None:
        """Ask a container to end, and kill it after the grace; one that is not there is fine."""
        with engine_faults(f"stopping {name}"), suppress(docker.errors.NotFound):
            self._docker.containers.get(name).stop(timeout=grace_seconds)

    def remove(self, name: str) -> None:
        """Remove a container, running or not; one that is not there is fine."""
        with engine_faults(f"removing {name}"), suppress(docker.errors.NotFound):
            try:
                self._docker.api.remove_container(name, v=True, force=True)
            except docker.errors.APIError as error:
                if not _is_being_removed(error):
                    raise
                self._docker.api.wait(name, condition="removed")

    def remove_volume(self, name: str) -> None:
        """Remove a volume; one that is not there is fine."""
        with engine_faults(f"removing the volume {name}"):
            for volume in self._docker.volumes.list(filters={"name": name}):
                if volume.name == name:
                    volume.remove()


def _is_name_taken(error: docker.errors.APIError) -> bool:
    conflict = error.status_code == http.HTTPStatus.CONFLICT
    return conflict and "is already in use by container" in str(error.explanation)


def _is_being_removed(error: docker.errors.APIError) -> bool:
    """Whether somebody else removes it in this moment."""
    conflict = error.status_code == http.HTTPStatus.CONFLICT
    return conflict and "already in progress" in str(error.explanation)


def _seen(container: Any) -> Container:
    state = container.attrs["State"]
    return Container(
        id=container.id,
        name=container.name,
        running=bool(state["Running"]),
        exit_code=int(state["ExitCode"]),
        image_id=container.attrs["Image"],
        labels=container.attrs["Config"]["Labels"] or {},
        created=container.attrs["Created"],
        kept=container.attrs["HostConfig"]["RestartPolicy"]["Name"] == _KEEP["Name"],
    )


def _tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
