"""The traffic switch of a Docker stack: haproxy with two slots, driven by its runtime API.

The configuration never changes, so a haproxy that restarts needs nobody: of its two slots it sends
to the one that is healthy. A deploy puts the new version into the free slot, shut off, and turns
the traffic over in one command.

Source: https://docs.haproxy.org/2.6/management.html#9.3
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from blocks.engine import Engine
from domain.errors import SwitchFailed
from domain.names import one_line

FRONT_PORT = 8080
CONFIG_PATH = "/usr/local/etc/haproxy/haproxy.cfg"
SLOTS = ("a", "b")


def haproxy_config(addresses: Mapping[str, str], port: int, health_path: str) -> str:
    """The whole configuration, for the fixed addresses of the slots."""
    servers = "\n".join(f"  server {slot} {addresses[slot]}:{port}" for slot in SLOTS)
    return f"""\
global
  log stdout format raw local0 notice
  stats socket ipv4@127.0.0.1:9999 level admin
  hard-stop-after 30s

defaults
  mode http
  log global
  # Without this a client's kept-alive connection would stay on the version that is drained.
  option http-server-close
  option redispatch
  retries 3
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 30s

frontend front
  bind :{FRONT_PORT}
  default_backend app

backend app
  option httpchk GET {health_path}
  default-server check inter 1s fastinter 100ms downinter 100ms rise 1 fall 3
{servers}
"""


@dataclass(frozen=True)
class Slot:
    """How haproxy sees a slot: its status word, the requests in it, and its last health check."""

    status: str
    requests: int
    answer: str

    @property
    def serves(self) -> bool:
        """Whether new requests go there."""
        return self.status.startswith("UP")

    @property
    def healthy(self) -> bool:
        """Whether a slot that is shut off answers its checks well."""
        return self.status.startswith("DRAIN")


class Switch:
    """The running haproxy of one stack."""

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine, self._container = engine, container

    def slots(self) -> dict[str, Slot]:
        """Both slots, by name."""
        rows = csv.DictReader(io.StringIO(self._ask("show stat -1 4 -1").removeprefix("# ")))
        try:
            slots = {row["svname"]: _slot(row) for row in rows}
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            raise self._silent(str(error)) from error
        if set(slots) != set(SLOTS):
            raise self._silent(f"it knows the slots {sorted(slots)}")
        return slots

    def shut(self, slot: str) -> None:
        """Send nothing to a slot, and do not check it."""
        self._tell(f"set server app/{slot} state maint")

    def check(self, slot: str) -> None:
        """Send nothing to a slot, but check its health: anew, whatever was there before."""
        # haproxy remembers the last check of the version that was in this slot before.
        self._tell(f"set server app/{slot} state drain; set server app/{slot} health down")

    def turn_to(self, slot: str) -> None:
        """Send every new request to this slot; requests in the other one run to their end."""
        other = SLOTS[1 - SLOTS.index(slot)]
        self._tell(f"set server app/{slot} state ready; set server app/{other} state drain")

    def _tell(self, command: str) -> None:
        answer = self._ask(command).strip()
        if answer:
            raise SwitchFailed("The traffic switch refused a command.", why=one_line(answer, 200))

    def _ask(self, command: str) -> str:
        code, output = self._engine.execute(
            self._container, ["sh", "-c", f"echo '{command}' | nc 127.0.0.1 9999"]
        )
        if code != 0:
            raise self._silent(one_line(output, 200))
        return output

    def _silent(self, why: str) -> SwitchFailed:
        return SwitchFailed(
            "The traffic switch does not say how it stands.",
            why=why,
            hint=f"See docker logs {self._container}.",
        )


# haproxy's words for its checks, and what they mean to a person.
_PLAIN = {
    "Initializing": "not asked yet",
    "Connection refused": "the port refuses connections",
    "Layer4 connection problem": "the port cannot be reached",
    "Layer4 timeout": "nothing answers on the port",
    "Layer7 timeout": "no answer in time",
}


def _slot(row: dict[str, str]) -> Slot:
    if not row["status"]:
        raise ValueError("a slot without a status")
    said = f"{row['check_code']} {row['check_desc']} {row['last_chk']}".strip()
    answer = next((plain for word, plain in _PLAIN.items() if word in said), said)
    return Slot(
        status=row["status"],
        requests=int(row["scur"] or 0),
        answer=one_line(answer, 200) or "no answer yet",
    )
