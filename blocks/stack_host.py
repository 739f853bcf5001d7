"""A Docker stack on its engine: the containers, and the order of a deploy's parts."""

import hashlib
import ipaddress
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from blocks.contracts import Turn
from blocks.engine import Container, Engine, Service
from blocks.stopping import stop_meanwhile
from blocks.switch import CONFIG_PATH, FRONT_PORT, SLOTS, Switch, Turned, haproxy_config
from domain.errors import DeployFailed, SwitchFailed
from domain.image import PublishedImage, Serving

if TYPE_CHECKING:
    from blocks.docker_stack import DockerStack

_POLL_SECONDS, _LOOK_SECONDS = 0.05, 0.3
_SOON_SECONDS, _LATE_SECONDS = 0.02, 0.1
"""How long nobody asks whether a version is healthy: at first, and after two seconds"""
SLOT = "samebits.slot"
"""Label of a version: the slot of the traffic switch that it runs in"""
_SETTINGS, _RUN, _TURN = "samebits.settings", "samebits.run", "samebits.turn"
Log = Callable[[str], None]


class StackHost:
    """A stack on its engine: everything there is called by `prefix`."""

    def __init__(self, stack: "DockerStack", engine: Engine, prefix: str) -> None:
        self.stack, self.engine, self.prefix = stack, engine, prefix
        self.switch_name = f"{prefix}-switch"

    def labels(self, role: str) -> dict[str, str]:
        return {"samebits.stack": self.prefix, "samebits.role": role}

    def containers(self, role: str | None = None) -> list[Container]:
        wanted = {"samebits.stack": self.prefix}
        return self.engine.containers(wanted | ({"samebits.role": role} if role else {}))

    def address(self, slot: str) -> str:
        """The fixed address of a slot, at the end of the network, where the engine begins last."""
        return str(self._subnet[-3 - SLOTS.index(slot)])

    @cached_property
    def _subnet(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return ipaddress.ip_network(self.engine.subnet(self.prefix))

    def take_turn(self, turn: Turn, log: Log) -> Turned:
        """The switch in the hand of this deploy: what earlier deploys command is refused now."""
        switch = self._ensure_switch(log, turn.begun)
        # A switch that was made anew has forgotten its numbers; the versions have not.
        after = max((_turn_of(version) for version in self.containers("version")), default=0)
        return switch.take_turn(turn.owner, after)

    def _ensure_switch(self, log: Log, may_change: Callable[[], None] = lambda: None) -> Switch:
        """The running switch, made on the first deploy, and anew when its settings have changed;
        before that is done, `may_change` is called, which may raise.
        """
        self.engine.network(self.prefix, self.labels("network"), fixed=True)
        wanted = self._switch()
        found = self.engine.container(wanted.name)
        if found is None or found.labels.get(_SETTINGS) != wanted.labels[_SETTINGS]:
            may_change()
            if self.engine.image_id(wanted.image) is None:
                self.engine.pull(wanted.image)
            if found is None:
                self.engine.create(wanted)
            else:
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
            self.switch_name,
            stack.switch_image,
            labels=self.labels("switch") | {_SETTINGS: settings},
            network=self.prefix,
            ports={FRONT_PORT: at},
            files={CONFIG_PATH: config},
        )

    def current(self) -> Container | None:
        """The version that serves, if any: by the word of the switch, else the last that did."""
        versions = [c for c in self.containers("version") if c.running]
        sent_to = self._sent_to(versions) if len(versions) > 1 else None
        return sent_to or _last_served(versions)

    def _sent_to(self, versions: list[Container]) -> Container | None:
        """Which of these the switch sends to; None for none, or several."""
        slots = Switch(self.engine, self.switch_name).slots()
        serving = [v for v in versions if v.running and slots[v.labels[SLOT]].serves]
        return serving[0] if len(serving) == 1 else None

    def last_served(self) -> Container | None:
        """The newest version that has served, running or not."""
        return _newest_served(self.containers("version"))

    def goes_on(self) -> bool:
        """Whether both a version that has served and the switch run."""
        versions = self.containers("version")
        switches = self.containers("switch")
        return any(one.running and one.kept for one in versions) and all(
            one.running for one in switches
        )

    def resume(self) -> None:
        """Start the switch and the version that served last; what a cut-off deploy left goes."""
        versions = self.containers("version")
        alive = [switch for switch in self.containers("switch") if switch.running]
        # The word of a switch that lives counts: a deploy may have been cut off right after it.
        serving = self._sent_to(versions) if alive else None
        last = serving or _last_served(versions)
        for version in versions:
            if last is None or version.id != last.id:
                self.engine.remove(version.id)
        if last:
            self.engine.start(last.id)
        if serving:
            self.engine.keep(serving.id)
        if self.containers("switch"):
            switch = self._ensure_switch(lambda _: None)
            if last:
                # A switch that has just started would try the empty slot, too, until it is checked.
                turned = switch.take_turn("start", _turn_of(last))
                turned.turn_to(last.labels[SLOT])
                turned.shut(self.other_slot(last))

    def remove_leftovers(self, switch: Turned, current: Container | None) -> None:
        """Remove what broken-off deploys of earlier turns left."""
        for container in self.containers("version"):
            kept = current is not None and container.id == current.id
            if not kept and _turn_of(container) < switch.number:
                if container.running:  # one that has served may still be at its end
                    self.engine.stop(container.id)
                self.engine.remove(container.id)

    @staticmethod
    def other_slot(current: Container | None) -> str:
        """The slot that is free for the next version: there are two."""
        return SLOTS[1 - SLOTS.index(current.labels[SLOT])] if current else SLOTS[0]

    def start(self, slot: str, image: PublishedImage, run: str, turn: int) -> Container:
        """Start a version in a slot, in a turn of a run."""
        name = f"{self.prefix}-{slot}"
        secrets = self.stack.secrets.get_secret_value() if self.stack.secrets else {}
        version = {
            SLOT: slot,
            "samebits.digest": image.digest,
            "samebits.commit": image.commit.sha,
            _RUN: run,
            _TURN: str(turn),
        }
        container_id = self.engine.create(
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
        return self._there(container_id)

    def _there(self, container_id: str) -> Container:
        found = self.engine.container(container_id)
        if found is None:
            raise DeployFailed(
                f"The new version of {self.prefix} was removed by somebody else.",
                hint="Retry the run, if nothing newer was deployed meanwhile.",
            )
        return found

    def is_done(self, switch: Turned, there: Container, image: PublishedImage, run: str) -> bool:
        """Whether this run has put this image there already, and it serves."""
        labels = there.labels
        if (labels["samebits.digest"], labels.get(_RUN)) != (image.digest, run):
            return False
        if not switch.switch.slots()[labels[SLOT]].serves:
            return False
        self.engine.keep(there.id)
        return True

    def wait_for_health(self, switch: Turned, slot: str, new: Container, log: Log) -> None:
        """Return when the version answers; raises DeployFailed when it ends or takes too long."""
        switch.check(slot)
        began = time.monotonic()
        deadline = began + self.stack.health_timeout_seconds
        said, look_at = "", 0.0
        while True:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK_SECONDS
                seen = self._there(new.id)
                if not seen.running:
                    why = f"It ended with exit code {seen.exit_code}."
                    raise self._unhealthy(switch.switch, new, why)
            seen_by_switch = switch.switch.slots()[slot]
            if seen_by_switch.healthy:
                return
            answer = seen_by_switch.answer
            if answer != said:
                said = answer
                log(f"Not healthy yet: {answer}")
            if time.monotonic() > deadline:
                raise self._unhealthy(
                    switch.switch,
                    new,
                    f"After {self.stack.health_timeout_seconds:g} s "
                    f"{self.stack.health_path} still says: {answer}.",
                )
            waited = time.monotonic() - began
            time.sleep(min(max(_SOON_SECONDS, waited / 20), _LATE_SECONDS))

    def turn(self, switch: Turned, slot: str, new: Container) -> None:
        """Turn the traffic over, and see that it did."""
        switch.turn_to_new(slot)
        self.engine.keep(new.id)
        status = switch.switch.slots()[slot]
        if not status.serves:
            raise SwitchFailed(
                "The traffic switch does not send to the new version.",
                why=f"It says {status.status}.",
            )

    def give_back(self, switch: Turned, old: Container | None, new: Container) -> None:
        """Whatever has happened so far, the old version gets the traffic, and the new one goes."""
        try:
            if old:
                switch.turn_to(old.labels[SLOT])
            switch.shut(self.other_slot(old))
        finally:
            self.engine.remove(new.id)

    def drain_and_stop(self, switch: Turned, new: Container, log: Log) -> None:
        """Wait for the requests in the other slot, then begin to stop what ran there."""
        slot = self.other_slot(new)
        deadline = time.monotonic() + self.stack.drain_seconds
        while (left := switch.switch.slots()[slot].requests) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if left:
            log(f"{left} requests did not end within {self.stack.drain_seconds:g} s")
        switch.shut(slot)
        versions = self.containers("version")
        old = [one for one in versions if one.id != new.id and _turn_of(one) <= switch.number]
        for version in old:
            # Whatever dies from now on, the engine starts none of them beside the new one.
            self.engine.let_end(version.id)
        stop_meanwhile(self.stack.engine, old, log)

    def verified(self, switch: Turned, new: Container, image: PublishedImage) -> Serving:
        """What the slot runs now, read back from engine and switch; it must be this image."""
        found = self.engine.container(new.id)
        if (
            found is None
            or not found.running
            or found.image_id != self.engine.image_id(image.reference)
            or not switch.switch.slots()[new.labels[SLOT]].serves
        ):
            raise DeployFailed(
                f"{self.prefix} does not serve {image.digest} after the deploy.",
                why="It ended, or somebody else changed the stack meanwhile.",
                hint="Retry the run. The last lines of its log:",
                log=self.engine.tail(found.id) if found else [],
            )
        return serving_of(found)

    def _unhealthy(self, switch: Switch, new: Container, why: str) -> DeployFailed:
        slots = switch.slots()
        others = [c for c in self.containers("version") if slots[c.labels[SLOT]].serves]
        serves = (
            f"The old version ({others[0].labels['samebits.commit'][:8]}) serves on."
            if others
            else "Nothing serves now."
        )
        return DeployFailed(
            f"The new version did not become healthy on {self.prefix}.",
            why=why,
            hint=f"{serves} The last lines of its log:",
            log=self.engine.tail(new.id),
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


def _turn_of(version: Container) -> int:
    turn = version.labels.get(_TURN, "")
    return int(turn) if turn.isdecimal() else 0


def _last_served(versions: list[Container]) -> Container | None:
    """The newest version that has served; without one, the oldest."""
    return _newest_served(versions) or next(iter(versions), None)


def _newest_served(versions: list[Container]) -> Container | None:
    return next((version for version in reversed(versions) if version.kept), None)
