"""The traffic switch: its configuration, and how its answers are read."""

import re
from collections.abc import Sequence

import pytest

from blocks.switch import FRONT_PORT, Switch, haproxy_config
from domain.errors import SwitchFailed

HEADER = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,weight,check_status,check_code,"
    "check_duration,last_chk,check_desc,\n"
)


class FakeHaproxy:
    """An engine with one container, in which haproxy's runtime API answers; it keeps state.

    It takes the commands that haproxy 2.6 takes, and answers as it does: nothing where it did what
    it was told, a line of text where it did not.
    """

    def __init__(self) -> None:
        self.state = {"a": "UP", "b": "MAINT"}
        self.healthy = {"a": True, "b": True}
        self.requests = {"a": 3, "b": 0}
        self.exit_code = 0
        self.stat: str | None = None

    def execute(self, name: str, command: Sequence[str]) -> tuple[int, str]:
        assert name == "stage-switch"
        shell, option, line = command
        assert (shell, option) == ("sh", "-c")
        found = re.fullmatch(r"echo '([^']*)' \| nc 127\.0\.0\.1 9999", line)
        assert found
        if self.exit_code:
            return self.exit_code, "nc: 127.0.0.1: Connection refused\n"
        return 0, "".join(self._answer(part.strip()) for part in found[1].split(";")) + "\n"

    def _answer(self, command: str) -> str:
        if command == "show stat -1 4 -1":
            return self._stat() if self.stat is None else self.stat
        found = re.fullmatch(r"set server app/(\w+) (state|health) (\w+)", command)
        if not found or found[1] not in self.state:
            return "No such server.\n"
        slot, kind, value = found.groups()
        if kind == "health":
            self.healthy[slot] = value == "up"
        else:
            self.state[slot] = {"ready": "UP", "drain": "DRAIN", "maint": "MAINT"}[value]
        return ""

    def _stat(self) -> str:
        rows = []
        for slot, state in self.state.items():
            status = state if self.healthy[slot] or state == "MAINT" else "DOWN"
            code, words = ("200", "OK") if self.healthy[slot] else ("", "")
            rows.append(
                f"app,{slot},0,0,{self.requests[slot]},1,,9,{status},1,L7OK,{code},1,"
                f'"{words}","Layer7, check ""passed""",\n'
            )
        return HEADER + "".join(rows)


@pytest.fixture
def haproxy() -> FakeHaproxy:
    return FakeHaproxy()


@pytest.fixture
def switch(haproxy: FakeHaproxy) -> Switch:
    return Switch(haproxy, "stage-switch")  # type: ignore[arg-type]


def test_the_configuration_has_both_slots_at_their_fixed_addresses() -> None:
    config = haproxy_config({"a": "172.20.0.11", "b": "172.20.0.12"}, 8000, "/health?deep=1")
    assert "\n  server a 172.20.0.11:8000\n  server b 172.20.0.12:8000\n" in config
    assert "\n  option httpchk GET /health?deep=1\n" in config
    assert f"\n  bind :{FRONT_PORT}\n" in config
    assert config.endswith("\n"), "haproxy refuses a last line without an end"


def test_the_runtime_api_is_open_inside_the_container_only() -> None:
    config = haproxy_config({"a": "172.20.0.11", "b": "172.20.0.12"}, 8000, "/")
    assert re.findall(r"stats socket \S+", config) == ["stats socket ipv4@127.0.0.1:9999"]


def test_a_configuration_needs_both_slots() -> None:
    with pytest.raises(KeyError):
        haproxy_config({"a": "172.20.0.11"}, 8000, "/")


def test_both_slots_are_read_with_their_requests_and_last_answer(switch: Switch) -> None:
    slots = switch.slots()
    assert (slots["a"].serves, slots["a"].healthy, slots["a"].requests) == (True, False, 3)
    assert (slots["b"].serves, slots["b"].healthy, slots["b"].requests) == (False, False, 0)
    assert slots["a"].answer == '200 Layer7, check "passed" OK'


def test_traffic_is_turned_from_one_slot_to_the_other_and_back(
    switch: Switch, haproxy: FakeHaproxy
) -> None:
    for slot, other in (("b", "a"), ("a", "b")):
        switch.turn_to(slot)
        slots = switch.slots()
        assert slots[slot].serves
        assert not slots[other].serves
        assert slots[other].healthy, "requests in the old version run to their end"


def test_a_new_version_is_not_healthy_before_it_was_checked_anew(
    switch: Switch, haproxy: FakeHaproxy
) -> None:
    switch.check("b")
    assert not switch.slots()["b"].healthy
    haproxy.healthy["b"] = True
    assert switch.slots()["b"].healthy
    assert not switch.slots()["b"].serves
    assert switch.slots()["a"].serves


def test_a_slot_that_is_shut_neither_serves_nor_counts_as_healthy(switch: Switch) -> None:
    switch.shut("a")
    slot = switch.slots()["a"]
    assert (slot.serves, slot.healthy) == (False, False)


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


def test_a_slot_without_any_check_yet_says_so(switch: Switch, haproxy: FakeHaproxy) -> None:
    haproxy.stat = f"{HEADER}app,a,0,0,,0,,0,MAINT,1,,,,,,\napp,b,0,0,0,0,,0,DOWN,1,,,,,,\n"
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


def test_a_switch_that_is_not_there_is_an_error(switch: Switch, haproxy: FakeHaproxy) -> None:
    haproxy.exit_code = 1
    with pytest.raises(SwitchFailed, match="Connection refused"):
        switch.slots()
    with pytest.raises(SwitchFailed, match="Connection refused"):
        switch.turn_to("b")


def test_a_command_that_is_refused_is_an_error(switch: Switch, haproxy: FakeHaproxy) -> None:
    del haproxy.state["b"]
    with pytest.raises(SwitchFailed, match="No such server"):
        switch.turn_to("b")


def test_there_is_no_third_slot(switch: Switch) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        switch.turn_to("c")
