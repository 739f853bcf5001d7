"""The traffic switch of a Docker stack: haproxy with two slots, driven by its runtime API.

The configuration never changes, so a haproxy that restarts needs nobody: of its two slots it sends
to the one that is healthy. A deploy puts the new version into the free slot, shut off, and turns
the traffic over in one command.

Whether a new version is healthy yet is asked in a backend of its own, every 20 ms. In the one that
serves it would be asked after up to a second: a server that is no longer shut off waits for its
next usual check.

Source: https://docs.haproxy.org/2.6/management.html#9.3
"""

import csv
import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from blocks.engine import Engine
from domain.errors import Overtaken, SwitchFailed
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

backend new
  option httpchk GET {health_path}
  # As long as the backend that serves waits: what answers later would be down there.
  timeout check 1s
  default-server check inter 20ms rise 1 fall 3 disabled
{servers}
"""


@dataclass(frozen=True)
class Slot:
    """How haproxy sees a slot: status word, the requests in it; and whether what is new there
    answers its checks well, and how.
    """

    status: str
    requests: int
    healthy: bool
    answer: str

    @property
    def serves(self) -> bool:
        """Whether new requests go there."""
        return self.status.startswith("UP")


class Switch:
    """The running haproxy of one stack."""

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine, self._container = engine, container

    def slots(self) -> dict[str, Slot]:
        """Both slots, by name."""
        answer = self._run(_asking("show stat -1 4 -1"))
        try:
            rows = {
                (row["pxname"], row["svname"]): row
                for row in csv.DictReader(io.StringIO(answer.removeprefix("# ")))
            }
            # A switch that an older version of this package made has no backend for what is new.
            return {
                slot: _slot(rows["app", slot], rows.get(("new", slot), rows["app", slot]))
                for slot in SLOTS
            }
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            raise self._silent(f"{type(error).__name__}: {error}") from error

    def take_turn(self, owner: str, after: int = 0) -> "Turned":
        """A new turn, with a number above every earlier one and above `after`.

        From now on what earlier turns command is refused: a deploy that was thought dead, and goes
        on, changes nothing.
        """
        number = self._run(_locked(_TAKE.format(owner=shlex.quote(owner), after=after))).strip()
        if not number.isdecimal():
            raise self._silent(f"it gave no turn: {one_line(number, 100)}")
        return Turned(self, int(number), owner)

    def holder(self) -> str:
        """Number and owner of the last turn; empty for none."""
        return self._run(f"cat {_TURN} 2>/dev/null; true").strip()

    def command(self, turn: str, command: str) -> None:
        """Have haproxy do something, if the turn (number and owner) is the last one still."""
        if "'" in command:
            raise ValueError("a command with a quote")
        script = _TOLD.format(turn=shlex.quote(turn), asking=_asking(command))
        answer = self._run(_locked(script)).strip()
        if answer.startswith(_LATER):
            raise Overtaken(
                "A later deploy has begun on this stack: this one may not change it any more.",
                why=f"Its turn was {turn}, and {one_line(answer.removeprefix(_LATER), 100)} is on.",
                hint="Nothing was changed by this one since. Retry the run if it is wanted.",
            )
        if answer:
            raise SwitchFailed("The traffic switch refused a command.", why=one_line(answer, 200))

    def _run(self, script: str) -> str:
        """What a script in the container says, whole: an engine can lose the end of it."""
        for _ in range(_TRIES):
            answer = self._engine.ask(self._container, script)
            if answer is None:
                continue
            code, said = answer
            if code != 0:
                raise self._silent(one_line(said, 200) or f"exit code {code}")
            return said
        raise self._silent("its answers are lost on the way")

    def _silent(self, why: str) -> SwitchFailed:
        return SwitchFailed(
            "The traffic switch does not say how it stands.",
            why=why,
            hint=f"See docker logs {self._container}.",
        )


class Turned:
    """The switch in the hand of one deploy; each of its commands may raise Overtaken."""

    def __init__(self, switch: Switch, number: int, owner: str) -> None:
        self.switch, self.number, self._turn = switch, number, f"{number} {owner}"

    def shut(self, slot: str) -> None:
        """Send nothing to a slot, and do not check it."""
        self._tell(f"set server app/{slot} state maint; set server new/{slot} state maint")

    def check(self, slot: str) -> None:
        """Check the health of what is new in a slot: anew, whatever was there before."""
        # haproxy remembers the last check of the version that was in this slot before.
        self._tell(f"set server new/{slot} state ready; set server new/{slot} health down")

    def turn_to(self, slot: str) -> None:
        """Send every new request to this slot; requests in the other one run to their end."""
        other = SLOTS[1 - SLOTS.index(slot)]
        self._tell(f"set server app/{slot} state ready; set server app/{other} state drain")

    def turn_to_new(self, slot: str) -> None:
        """The same, to what was checked there, and is healthy."""
        other = SLOTS[1 - SLOTS.index(slot)]
        # A server that is ready again goes down at its first failed check, e.g. one that was under
        # way since before its version began, until it is said to be up.
        self._tell(
            f"set server app/{slot} state ready; set server app/{slot} health up; "
            f"set server app/{other} state drain; set server new/{slot} state maint"
        )

    def _tell(self, command: str) -> None:
        self.switch.command(self._turn, command)


# The lock lies in memory: with a container that is killed in between it is gone. What runs under it
# takes milliseconds, and goes on when the client that asked for it dies.
_TURN, _LOCK = "/tmp/samebits.turn", "/dev/shm/samebits.lock"  # noqa: S108 - in the switch's container
_LATER = "later:"
_TRIES = 5
_TAKE = f"""\
number=$(cut -d' ' -f1 {_TURN} 2>/dev/null)
number=${{{{number:-0}}}}
[ "$number" -ge {{after}} ] || number={{after}}
number=$((number + 1))
echo "$number" {{owner}} > {_TURN} && echo $number
"""
_TOLD = f"""\
now=$(cat {_TURN} 2>/dev/null)
if [ "$now" = {{turn}} ]; then {{asking}}
else echo {_LATER} "$now"; fi
"""


def _asking(command: str) -> str:
    return f"echo '{command}' | nc 127.0.0.1 9999"


def _locked(script: str) -> str:
    """The script under the container's lock; one that is older than 10 s was left by a death."""
    return f"""\
tries=0
until mkdir {_LOCK} 2>/dev/null; do
  tries=$((tries + 1)); [ $tries -lt 100 ] || rmdir {_LOCK} 2>/dev/null; sleep 0.1
done
{script}
code=$?; rmdir {_LOCK}; (exit $code)"""


# haproxy's words for its checks, and what they mean to a person.
_PLAIN = {
    "Initializing": "not asked yet",
    "Connection refused": "the port refuses connections",
    "Layer4 connection problem": "the port cannot be reached",
    "Layer4 timeout": "nothing answers on the port",
    "Layer7 timeout": "no answer in time",
}


def _slot(serving: dict[str, str], new: dict[str, str]) -> Slot:
    if not serving["status"]:
        raise ValueError("a slot without a status")
    said = f"{new['check_code']} {new['check_desc']} {new['last_chk']}".strip()
    answer = next((plain for word, plain in _PLAIN.items() if word in said), said)
    return Slot(
        status=serving["status"],
        requests=int(serving["scur"] or 0),
        healthy=new["status"].startswith("UP"),
        answer=one_line(answer, 200) or "no answer yet",
    )
