"""A Docker stack on its engine: the containers, and the order of a deploy's parts."""

import hashlib
import ipaddress
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blocks.engine import Container, Engine, Service
from blocks.switch import CONFIG_PATH, FRONT_PORT, SLOTS, Switch, haproxy_config
from domain.errors import DeployFailed, SwitchFailed
from domain.image import PublishedImage, Serving

if TYPE_CHECKING:
    from blocks.docker_stack import DockerStack

_POLL_SECONDS = 0.1
_SLOT, _SETTINGS = "samebits.slot", "samebits.settings"
Log = Callable[[str], None]


class StackHost:
    """A stack on its engine: everything there is called by `prefix`."""

    def __init__(self, stack: "DockerStack", engine: Engine, prefix: str) -> None:
        self.stack, self.engine, self.prefix = stack, engine, prefix

    def labels(self, role: str) -> dict[str, str]:
        return {"samebits.stack": self.prefix, "samebits.role": role}

    def containers(self, role: str | None = None) -> list[Container]:
        wanted = {"samebits.stack": self.prefix}
        return self.engine.containers(wanted | ({"samebits.role": role} if role else {}))

    def address(self, slot: str) -> str:
        """The fixed address of a slot, at the end of the network, where the engine begins last."""
        subnet = ipaddress.ip_network(self.engine.subnet(self.prefix))
        return str(subnet[-3 - SLOTS.index(slot)])

    def ensure_switch(self, log: Log) -> Switch:
        """The running switch, made on the first deploy, and anew when its settings have changed."""
        self.engine.network(self.prefix, self.labels("network"), fixed=True)
        wanted = self._switch()
        found = self.engine.container(wanted.name)
        if self.engine.image_id(wanted.image) is None:
            self.engine.pull(wanted.image)
        if found is None:
            self.engine.create(wanted)
        elif found.labels.get(_SETTINGS) != wanted.labels[_SETTINGS]:
            log("The settings of the traffic switch have changed: it is made anew.")
            self._replace(found, wanted)
        elif not found.running:
            self.engine.start(found.name)
        switch = Switch(self.engine, wanted.name)
        self._wait(switch.slots, SwitchFailed, seconds=15)
        return switch

    def _replace(self, old: Container, new: Service) -> None:
        """Put a new switch in the place of the old one, which comes back if that fails."""
        aside = f"{old.name}-old"
        self.engine.remove(aside)
        self.engine.stop(old.name, grace_seconds=5)
        self.engine.rename(old.name, aside)
        try:
            self.engine.create(new)
        except BaseException:
            self.engine.remove(new.name)
            self.engine.rename(aside, old.name)
            self.engine.start(old.name)
            raise
        self.engine.remove(aside)

    def _switch(self) -> Service:
        stack = self.stack
        addresses = {slot: self.address(slot) for slot in SLOTS}
        config = haproxy_config(addresses, stack.container_port, stack.health_path).encode()
        at = (stack.address, stack.port)
        settings = hashlib.sha256(repr((config, at, stack.switch_image)).encode()).hexdigest()
        return Service(
            f"{self.prefix}-switch",
            stack.switch_image,
            labels=self.labels("switch") | {_SETTINGS: settings},
            network=self.prefix,
            ports={FRONT_PORT: at},
            files={CONFIG_PATH: config},
        )

    def current(self) -> Container | None:
        """The version that serves, if any: by the word of the switch, else the last that did."""
        versions = [c for c in self.containers("version") if c.running]
        if len(versions) > 1:
            slots = Switch(self.engine, f"{self.prefix}-switch").slots()
            serving = [v for v in versions if slots[v.labels[_SLOT]].serves]
            if len(serving) == 1:
                return serving[0]
        return _last_served(versions)

    def resume(self) -> None:
        """Start the switch and the version that served last; what a cut-off deploy left goes."""
        last = _last_served(self.containers("version"))
        self.remove_leftovers(last)
        if last:
            self.engine.start(last.name)
        for container in self.containers("switch"):
            self.engine.start(container.name)
            if last:
                # A switch that has just started would try the empty slot, too, until it is checked.
                switch = Switch(self.engine, container.name)
                self._wait(switch.slots, SwitchFailed, seconds=15)
                switch.shut(self.other_slot(last))

    def remove_leftovers(self, current: Container | None) -> None:
        """Remove what a broken-off deploy left."""
        for container in self.containers("version"):
            if current is None or container.id != current.id:
                self.engine.remove(container.name)

    def other_slot(self, current: Container | None) -> str:
        """The slot that is free for the next version."""
        return self.other_slot_of(current.labels[_SLOT]) if current else SLOTS[0]

    @staticmethod
    def other_slot_of(slot: str) -> str:
        """There are two."""
        return SLOTS[1 - SLOTS.index(slot)]

    def start(self, slot: str, image: PublishedImage) -> str:
        """Start a version in a slot; returns the container's name."""
        name = f"{self.prefix}-{slot}"
        secrets = self.stack.secrets.get_secret_value() if self.stack.secrets else {}
        version = {
            _SLOT: slot,
            "samebits.digest": image.digest,
            "samebits.commit": image.commit.sha,
        }
        self.engine.create(
            Service(
                name,
                image.reference,
                labels=self.labels("version") | version,
                network=self.prefix,
                address=self.address(slot),
                environment=self.stack.environment | secrets,
                memory_mib=self.stack.memory_mib,
                # Until it has served once, an end is an end: nobody starts it again.
                keep=False,
            )
        )
        return name

    def wait_for_health(self, switch: Switch, slot: str, name: str, log: Log) -> None:
        """Return when the version answers; raises DeployFailed when it ends or takes too long."""
        switch.check(slot)
        deadline = time.monotonic() + self.stack.health_timeout_seconds
        said = ""
        while True:
            seen = self.engine.container(name)
            if seen is None or not seen.running:
                raise self._unhealthy(
                    switch, name, f"It ended with exit code {seen.exit_code if seen else '?'}."
                )
            seen_by_switch = switch.slots()[slot]
            if seen_by_switch.healthy:
                return
            answer = seen_by_switch.answer
            if answer != said:
                said = answer
                log(f"Not healthy yet: {answer}")
            if time.monotonic() > deadline:
                raise self._unhealthy(
                    switch,
                    name,
                    f"After {self.stack.health_timeout_seconds:g} s "
                    f"{self.stack.health_path} still says: {answer}.",
                )
            time.sleep(_POLL_SECONDS)

    def turn(self, switch: Switch, slot: str) -> None:
        """Turn the traffic over, and see that it did."""
        switch.turn_to(slot)
        self.engine.keep(f"{self.prefix}-{slot}")
        if not switch.slots()[slot].serves:
            raise SwitchFailed(
                "The traffic switch does not send to the new version.",
                why=f"It says {switch.slots()[slot].status}.",
            )

    def give_back(self, switch: Switch, old: Container | None, new: str) -> None:
        """Whatever has happened so far, the old version gets the traffic, and the new one goes."""
        try:
            if old:
                switch.turn_to(old.labels[_SLOT])
        finally:
            self.engine.remove(new)

    def drain_and_stop(self, switch: Switch, old: Container | None, slot: str, log: Log) -> None:
        """Wait for the requests in the old version's slot, then remove it."""
        deadline = time.monotonic() + self.stack.drain_seconds
        while (left := switch.slots()[slot].requests) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if left:
            log(f"{left} requests did not end within {self.stack.drain_seconds:g} s")
        switch.shut(slot)
        if old:
            self.engine.stop(old.name)
            self.engine.remove(old.name)

    def verified(self, switch: Switch, slot: str, image: PublishedImage) -> Serving:
        """What the slot runs now, read back from engine and switch; it must be this image."""
        found = self.engine.container(f"{self.prefix}-{slot}")
        if (
            found is None
            or not found.running
            or found.image_id != self.engine.image_id(image.reference)
            or not switch.slots()[slot].serves
        ):
            raise DeployFailed(
                f"{self.prefix} does not serve {image.digest} after the deploy.",
                why="It ended, or somebody else changed the stack meanwhile.",
                hint="Retry the run. The last lines of its log:",
                log=self.engine.tail(found.name) if found else [],
            )
        return serving_of(found)

    def _unhealthy(self, switch: Switch, name: str, why: str) -> DeployFailed:
        slots = switch.slots()
        others = [c for c in self.containers("version") if slots[c.labels[_SLOT]].serves]
        serves = (
            f"The old version ({others[0].labels['samebits.commit'][:8]}) serves on."
            if others
            else "Nothing serves now."
        )
        return DeployFailed(
            f"The new version did not become healthy on {self.prefix}.",
            why=why,
            hint=f"{serves} The last lines of its log:",
            log=self.engine.tail(name),
        )

    @staticmethod
    def _wait(ready: Callable[[], Any], not_yet: type[Exception], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                ready()
            except not_yet:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
            else:
                return


def serving_of(container: Container) -> Serving:
    """What a version's container says of itself."""
    labels = container.labels
    return Serving(digest=labels["samebits.digest"], sha=labels["samebits.commit"])


def _last_served(versions: list[Container]) -> Container | None:
    """The newest version that has served; without one, the oldest."""
    served = [version for version in versions if version.kept]
    return served[-1] if served else next(iter(versions), None)
