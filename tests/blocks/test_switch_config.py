"""The traffic switch: its configuration, and how its answers are read."""

import re
import subprocess
from pathlib import Path

import pytest

from blocks.switch import FRONT_PORT, Switch, Turned, haproxy_config
from domain.errors import Overtaken, SwitchFailed

HEADER = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,check_status,check_code,"
    "check_duration,last_chk,check_desc,\n"
)


class FakeHaproxy:
    """An engine with one container, in which haproxy's runtime API answers; it keeps state.

    It takes the commands that haproxy 2.6 takes, and answers as it does: nothing where it did what
    it was told, a line of text where it did not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = {"a": "UP", "b": "MAINT"}
        self.healthy = {"a": True, "b": True}
        self.new = {"a": "MAINT", "b": "MAINT"}
        self.new_healthy = {"a": False, "b": False}
        self.requests = {"a": 3, "b": 0}
        self.exit_code = 0
        self.stat: str | None = None
        self.lost = 0
        """So many answers more are lost on the way"""

    def ask(self, name: str, script: str) -> tuple[int, str] | None:
        assert name == "stage-switch"
        before = [dict(d) for d in (self.state, self.healthy, self.new, self.new_healthy)]
        asked = re.search(r"echo '([^']*)' \| nc 127\.0\.0\.1 9999", script)
        parts = asked[1].split(";") if asked else []
        answer = "".join(self._answer(part.strip()) for part in parts)
        found = self._run(script, answer)
        if not (self.folder / "told").exists():
            self.state, self.healthy, self.new, self.new_healthy = before
        self.lost -= 1
        return None if self.lost >= 0 else found

    def _run(self, script: str, answer: str) -> tuple[int, str]:
        """The script in a real shell, with the container's folders and its `nc` here."""
        (self.folder / "told").unlink(missing_ok=True)
        (self.folder / "answer").write_text(f"{answer}\n")
        refused = f"echo nc: 127.0.0.1: Connection refused; return {self.exit_code}"
        told = refused if self.exit_code else "cat > told; cat answer"
        here = re.sub(r"/(?:tmp|dev/shm)/", "./", script)
        done = subprocess.run(
            ["sh", "-c", f"nc() {{ {told}; }}\nsleep() {{ :; }}\n{here}"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def _answer(self, command: str) -> str:
        if command == "show stat -1 4 -1":
            return self._stat() if self.stat is None else self.stat
        found = re.fullmatch(r"set server (app|new)/(\w+) (state|health) (\w+)", command)
        if not found or found[2] not in self.state:
            return "No such server.\n"
        backend, slot, kind, value = found.groups()
        if kind == "health":
            (self.healthy if backend == "app" else self.new_healthy)[slot] = value == "up"
        else:
            word = {"ready": "UP", "drain": "DRAIN", "maint": "MAINT"}[value]
            (self.state if backend == "app" else self.new)[slot] = word
        return ""

    def _stat(self) -> str:
        backends = (("app", self.state, self.healthy), ("new", self.new, self.new_healthy))
        rows = []
        for backend, states, healthy in backends:
            for slot, state in states.items():
                status = state if healthy[slot] or state == "MAINT" else "DOWN"
                code, words = ("200", "OK") if healthy[slot] else ("", "")
                rows.append(
                    f"{backend},{slot},0,0,{self.requests[slot]},1,,9,{status},1,L7OK,{code},1,"
                    f'"{words}","Layer7, check ""passed""",\n'
                )
        return HEADER + "".join(rows)


@pytest.fixture
def haproxy(tmp_path: Path) -> FakeHaproxy:
    return FakeHaproxy(tmp_path)


@pytest.fixture
def switch(haproxy: FakeHaproxy) -> Switch:
    return Switch(haproxy, "stage-switch")  # type: ignore[arg-type]


@pytest.fixture
def turned(switch: Switch) -> Turned:
    return switch.take_turn("a run")


def test_the_configuration_has_both_slots_at_their_fixed_addresses() -> None:
    config = haproxy_config({"a": "172.20.0.11", "b": "172.20.0.12"}, 8000, "/health?deep=1")
    servers = "\n  server a 172.20.0.11:8000\n  server b 172.20.0.12:8000\n"
    assert config.count(servers) == 2, "those that serve, and those that are new"
    assert config.count("\n  option httpchk GET /health?deep=1\n") == 2
    assert "\n  timeout check 1s\n" in config, "as long as those that serve have, by their interval"
    assert f"\n  bind :{FRONT_PORT}\n" in config
    assert config.endswith("\n"), "haproxy refuses a last line without an end"


def test_the_runtime_api_is_open_inside_the_container_only() -> None:
    config = haproxy_config({"a": "172.20.0.11", "b": "172.20.0.12"}, 8000, "/")
    assert re.findall(r"stats socket \S+", config) == ["stats socket ipv4@127.0.0.1:9999"]


def test_a_configuration_needs_both_slots() -> None:
    with pytest.raises(KeyError):
        haproxy_config({"a": "172.20.0.11"}, 8000, "/")


def test_both_slots_are_read_with_their_requests_and_last_answer(
    switch: Switch, haproxy: FakeHaproxy
) -> None:
    haproxy.new_healthy["b"] = True
    slots = switch.slots()
    assert (slots["a"].serves, slots["a"].healthy, slots["a"].requests) == (True, False, 3)
    assert (slots["b"].serves, slots["b"].healthy, slots["b"].requests) == (False, False, 0)
    assert slots["b"].answer == '200 Layer7, check "passed" OK'


def test_traffic_is_turned_from_one_slot_to_the_other_and_back(
    switch: Switch, turned: Turned, haproxy: FakeHaproxy
) -> None:
    for slot, other in (("b", "a"), ("a", "b")):
        turned.turn_to(slot)
        slots = switch.slots()
        assert slots[slot].serves
        assert haproxy.state[other] == "DRAIN", "requests in the old version run to their end"


def test_a_new_version_is_not_healthy_before_it_was_checked_anew(
    switch: Switch, turned: Turned, haproxy: FakeHaproxy
) -> None:
    haproxy.new_healthy["b"] = True
    turned.check("b")
    assert not switch.slots()["b"].healthy
    haproxy.new_healthy["b"] = True
    assert switch.slots()["b"].healthy
    assert not switch.slots()["b"].serves
    assert switch.slots()["a"].serves


def test_a_version_that_was_found_healthy_serves_at_once_and_is_checked_as_usual(
    switch: Switch, turned: Turned, haproxy: FakeHaproxy
) -> None:
    haproxy.healthy["b"] = False  # as was the version that was there before
    turned.check("b")
    haproxy.new_healthy["b"] = True
    turned.turn_to_new("b")
    slots = switch.slots()
    assert (slots["b"].serves, slots["a"].serves) == (True, False)
    assert haproxy.new["b"] == "MAINT"


def test_a_slot_that_is_shut_neither_serves_nor_is_checked(
    switch: Switch, turned: Turned, haproxy: FakeHaproxy
) -> None:
    turned.check("a")
    haproxy.new_healthy["a"] = True
    turned.shut("a")
    slot = switch.slots()["a"]
    assert (slot.serves, slot.healthy, haproxy.new["a"]) == (False, False, "MAINT")


@pytest.mark.parametrize("status", ["UP", "UP 1/3"])
def test_a_slot_that_is_going_down_serves_until_it_is_down(
    switch: Switch, haproxy: FakeHaproxy, status: str
) -> None:
    haproxy.state["a"] = status
    assert switch.slots()["a"].serves


@pytest.mark.parametrize("status", ["DOWN", "DOWN 1/2", "NOLB", "MAINT", "no check"])
def test_a_slot_of_any_other_status_does_not_serve(
    switch: Switch, haproxy: FakeHaproxy, status: str
) -> None:
    haproxy.state["a"] = status
    slot = switch.slots()["a"]
    assert (slot.serves, slot.healthy) == (False, False)


def test_a_switch_of_an_older_version_of_this_package_is_understood(
    switch: Switch, haproxy: FakeHaproxy
) -> None:
    rows = "app,a,0,0,0,0,,0,UP,1,,,,,,\napp,b,0,0,0,0,,0,MAINT,1,,,,,,\n"
    haproxy.stat = HEADER + rows
    assert [slot.serves for slot in switch.slots().values()] == [True, False]


def test_a_slot_without_any_check_yet_says_so(switch: Switch, haproxy: FakeHaproxy) -> None:
    rows = "app,{0},0,0,,0,,0,MAINT,1,,,,,,\nnew,{0},0,0,,0,,0,MAINT,1,,,,,,\n"
    haproxy.stat = HEADER + rows.format("a") + rows.format("b")
    slots = switch.slots()
    assert slots["a"].answer == "no answer yet"
    assert slots["a"].requests == 0


@pytest.mark.parametrize(
    "stat",
    [
        "",
        "Unknown command.\n",
        HEADER,
        f"{HEADER}app,a,0,0,0,0,,0,UP,1,,,,,,\n",
        f"{HEADER}app,a\napp,b\n",
        f"{HEADER}app,a,0,0,many,0,,0,UP,1,,,,,,\napp,b,0,0,0,0,,0,UP,1,,,,,,\n",
        f"{HEADER}app,a\rb,0\n",
        "# pxname,svname,\napp,a,\napp,b,\n",
    ],
)
def test_an_answer_that_does_not_say_how_it_stands_is_an_error(
    switch: Switch, haproxy: FakeHaproxy, stat: str
) -> None:
    haproxy.stat = stat
    with pytest.raises(SwitchFailed, match="docker logs stage-switch"):
        switch.slots()


def test_a_switch_that_is_not_there_is_an_error(
    switch: Switch, turned: Turned, haproxy: FakeHaproxy
) -> None:
    haproxy.exit_code = 1
    with pytest.raises(SwitchFailed, match="Connection refused"):
        switch.slots()
    with pytest.raises(SwitchFailed, match="Connection refused"):
        turned.turn_to("b")


def test_a_command_that_is_refused_is_an_error(turned: Turned, haproxy: FakeHaproxy) -> None:
    del haproxy.state["b"]
    with pytest.raises(SwitchFailed, match="No such server"):
        turned.turn_to("b")


def test_there_is_no_third_slot(turned: Turned) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        turned.turn_to("c")


def test_a_turn_ends_every_earlier_one(switch: Switch, turned: Turned) -> None:
    later = switch.take_turn("another run")
    assert later.number > turned.number
    for command in (turned.turn_to, turned.shut, turned.check):
        with pytest.raises(Overtaken, match=f"Its turn was {turned.number} a run"):
            command("b")
    assert switch.slots()["a"].serves
    later.turn_to("b")
    assert switch.slots()["b"].serves
    assert switch.holder() == f"{later.number} another run"


def test_a_turn_has_a_number_above_those_that_the_versions_remember(switch: Switch) -> None:
    assert switch.take_turn("a run", after=41).number == 42
    assert switch.take_turn("a run", after=7).number == 43


def test_a_turn_of_the_same_run_ends_its_earlier_one(switch: Switch, turned: Turned) -> None:
    switch.take_turn("a run")
    with pytest.raises(Overtaken):
        turned.turn_to("b")


def test_an_answer_that_is_lost_is_asked_for_again(
    switch: Switch, turned: Turned, haproxy: FakeHaproxy
) -> None:
    haproxy.lost = 2
    turned.turn_to("b")
    assert switch.slots()["b"].serves
    haproxy.lost = 100
    with pytest.raises(SwitchFailed, match="lost on the way"):
        switch.slots()


def test_a_lock_that_a_death_left_is_broken(switch: Switch, haproxy: FakeHaproxy) -> None:
    (haproxy.folder / "samebits.lock").mkdir()
    assert switch.take_turn("a run").number == 1
    assert not (haproxy.folder / "samebits.lock").exists()
