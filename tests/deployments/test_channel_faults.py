"""The channel is away while runs go on: what they do stays the same, and each end is told once."""

import json
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from pydantic import SecretStr

from blocks.channel import Pace, SlackChannel
from domain.errors import ChannelRefused, ChannelUnavailable
from domain.marks import RESTARTED, SUPERSEDED
from tests.deployments.test_announcer import House
from tests.fault_plugin import fault

DOWN = ("503", "hangs up", "not Slack", "429")


class WeakSlack(BaseHTTPRequestHandler):
    """A Slack that keeps what it is told, and answers `fault` while there is one."""

    fault = ""
    messages: list[str]
    told: list[tuple[int, str]]
    """Each post and update: number of the message, and its text"""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fields = json.loads(body) if body.startswith("{") else _form(body)
        if self.fault == "hangs up":
            self.close_connection = True
        elif self.fault == "503":
            self._answer(503, {"ok": False, "error": "service_unavailable"})
        elif self.fault == "not Slack":
            self._answer(200, "<html>A proxy.</html>")
        elif self.fault == "429":
            self._answer(429, {"ok": False, "error": "ratelimited"})
        else:
            self._answer(200, {"ok": True, "channel": "C1", "ts": str(self._keep(fields))})

    def _keep(self, fields: dict[str, Any]) -> int:
        text = f"{fields['text']}\n{json.dumps(fields['attachments'])}"
        number = len(self.messages)
        if self.path.endswith("chat.update"):
            number = int(fields["ts"])
            self.messages[number] = text
        else:
            self.messages.append(text)
        self.told.append((number, text))
        return number

    def _answer(self, status: int, body: Any) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After", "30")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _form(body: str) -> dict[str, Any]:
    fields: dict[str, Any] = {name: values[0] for name, values in parse_qs(body).items()}
    return fields | {"attachments": json.loads(fields["attachments"])}


@pytest.fixture
def weak_slack() -> Iterator[tuple[type[WeakSlack], str]]:
    """A Slack of this test's own, and the address of its API."""
    kind = type("OwnSlack", (WeakSlack,), {"messages": [], "told": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield kind, f"http://127.0.0.1:{server.server_port}/api/"
        server.shutdown()
        thread.join()


class Clock:
    """A clock that is set by hand; who would sleep moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


ENDS = {
    "passed": (StateType.COMPLETED, None),
    "failed": (StateType.FAILED, None),
    "crashed": (StateType.CRASHED, None),
    "cancelled": (StateType.CANCELLED, None),
    "superseded": (StateType.CANCELLED, SUPERSEDED),
    "cut off": (StateType.SCHEDULED, RESTARTED),
}
LAST = tuple(ENDS)[:-1]
"""What was cut off goes on; the others may be the end"""


class Weather:
    """Runs, an announcer, and a Slack that comes and goes as `chance` has it."""

    def __init__(self, folder: Path, slack: type[WeakSlack], url: str, chance: random.Random):
        self.house, self.slack, self.chance, self.clock = House(folder), slack, chance, Clock()
        block = SlackChannel(channel="integration", token=SecretStr("xoxb-1"), api_url=url)
        pace = Pace(1, lambda: self.clock.now, self.clock.sleep)
        self.house.opened = block.open(folder / "unused", pace)
        self.stories: dict[UUID, list[str]] = {}
        """How the tries of each run ended"""

    def try_once(self, run: UUID, how: str) -> None:
        """Let a run begin once more, and end so."""
        self.stories[run].append(how)
        for kind in (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING):
            self.house.prefect.set(run, kind)
        kind, name = ENDS[how]
        self.house.prefect.set(run, kind, f"why {len(self.stories[run])} {how}", name=name)

    async def tells(self) -> bool:
        """One round of the announcer; whether the channel took everything."""
        try:
            await self.house.compare()
        except (ChannelUnavailable, ChannelRefused):
            return False
        return True

    async def away(self) -> None:
        """Slack is away from before the first run to after the last, whatever else happens."""
        for number in range(self.chance.randint(2, 4)):
            # There is something to tell from the first round on.
            age = timedelta(days=self.chance.choice([0, 1, 20]) if number else 0)
            self.stories[self.house.prefect.add(f"Commit {number}", age=age)] = []
        for ends in (list(ENDS), list(ENDS), list(LAST)):
            for run in self.chance.sample(list(self.stories), len(self.stories)):
                if ends == list(LAST) or self.chance.random() < 0.5:
                    self.try_once(run, self.chance.choice(ends))
            self.slack.fault = self.chance.choice(DOWN)
            self.clock.now += 60
            assert not await self.tells()
            if self.chance.random() < 0.5:
                self.house.restart()

    async def comes_back(self) -> None:
        """Slack takes messages again, and now and then wants to be left alone for a while."""
        for fault_now in [*self.chance.choices(["", "429"], k=10), ""]:
            self.slack.fault = fault_now
            self.clock.now += self.chance.choice([1, 60])
            await self.tells()
        self.clock.now += 60
        assert await self.tells()


@fault("Slack down for the whole run, and 429", trials=20, quick=2)
async def test_each_end_is_told_once_and_in_order_however_long_slack_was_away(
    tmp_path: Path, chance: random.Random, weak_slack: tuple[type[WeakSlack], str]
) -> None:
    weather = Weather(tmp_path, *weak_slack, chance)
    house, slack = weather.house, weather.slack
    await weather.away()
    results = {run: found.state for run, found in house.prefect.runs.items()}
    assert slack.told == []
    await weather.comes_back()
    house.restart()
    assert await weather.tells()

    assert results == {run: found.state for run, found in house.prefect.runs.items()}
    assert len(slack.told) == len(slack.messages) == len(weather.stories), "told twice"
    oldest_first = sorted(weather.stories, key=lambda run: str(house.prefect.runs[run].created))
    for message, run in zip(slack.messages, oldest_first, strict=True):
        ends = list(enumerate(weather.stories[run], 1))
        assert house.inbox.told_endings(str(run)) == ends
        assert f"· {ends[-1][1]}*" in message
        places = [message.find(f"attempt {number} {how}: why") for number, how in ends[:-1]]
        assert -1 not in places
        assert places == sorted(places)
