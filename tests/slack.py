"""A Slack that somebody else wrote: npm's `emulate`, on a free port, as long as a test needs it.

`python -m tests.slack` installs it beforehand.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from blocks.channel import SlackChannel
from deployments.processes import Child
from tests import npm

TOKEN = "xoxb-token-of-the-tests"
CHANNEL = "integration"


@dataclass(frozen=True)
class Slack:
    """A running Slack with one channel and a bot's token."""

    url: str
    """As slack-sdk's base_url"""

    def block(self, **settings: Any) -> SlackChannel:
        """The block of its channel; `settings` replace those that work."""
        known = {"channel": CHANNEL, "token": SecretStr(TOKEN), "api_url": self.url}
        return SlackChannel(**(known | settings))

    def call(self, method: str, **arguments: str) -> dict[str, Any]:
        """Call a method of the Web API as another program would."""
        answer = httpx.post(
            self.url + method, data=arguments, headers={"Authorization": f"Bearer {TOKEN}"}
        ).json()
        assert answer["ok"], answer
        return dict(answer)

    def messages(self) -> list[dict[str, Any]]:
        """What stands in the channel, oldest first."""
        channels = self.call("conversations.list")["channels"]
        channel = next(c["id"] for c in channels if c["name"] == CHANNEL)
        return list(reversed(self.call("conversations.history", channel=channel)["messages"]))

    def clear(self) -> None:
        """Delete what stands in the channel."""
        channels = self.call("conversations.list")["channels"]
        channel = next(c["id"] for c in channels if c["name"] == CHANNEL)
        for message in self.messages():
            self.call("chat.delete", channel=channel, ts=message["ts"])


@contextmanager
def running_slack(folder: Path) -> Iterator[Slack]:
    """A Slack that ends with the block; its log and seed lie in `folder`."""
    node_modules = npm.install("emulator")
    seed, port = folder / "slack.json", _free_port()
    seed.write_text(json.dumps(_SEED))
    argv = [
        str(node_modules / "node" / "bin" / "node"),
        str(node_modules / "emulate" / "dist" / "index.js"),
        "start", "--service", "slack", "--port", str(port), "--seed", str(seed),
    ]  # fmt: skip
    child = Child("The Slack emulator", argv, os.environ, folder / "slack.log")
    slack = Slack(f"http://127.0.0.1:{port}/api/")
    try:
        child.wait_until(lambda: _answers(slack), 30)
        yield slack
    finally:
        child.stop(5)


_SEED = {
    "slack": {
        # Without it, the emulator takes an unknown token for the administrator's.
        "strict_scopes": True,
        "users": [{"name": "samebits"}],
        "channels": [{"name": CHANNEL}],
        "tokens": [
            {
                "token": TOKEN,
                "user": "samebits",
                "scopes": ["chat:write", "channels:read", "channels:history"],
            }
        ],
    }
}


def _answers(slack: Slack) -> bool:
    try:
        slack.call("auth.test")
    except httpx.TransportError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    print(npm.install("emulator"))
