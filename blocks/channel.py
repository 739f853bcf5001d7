"""The room of Slack: the channel that is told, and its local twin."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, Protocol

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.builtin_handlers import (
    ConnectionErrorRetryHandler,
    ServerErrorRetryHandler,
)
from slack_sdk.web import SlackResponse

from domain.errors import ChannelRefused, ChannelUnavailable, MessageRefused, SamebitsError
from domain.message import Message
from domain.names import one_line

_PASSING = {
    "ratelimited",
    "rate_limited",
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
}
_REFUSES_ALL = {
    "access_denied",
    "accesslimited",
    "account_inactive",
    "channel_not_found",
    "ekm_access_denied",
    "enterprise_is_restricted",
    "invalid_auth",
    "is_archived",
    "missing_scope",
    "no_permission",
    "not_allowed_token_type",
    "not_authed",
    "not_in_channel",
    "org_login_required",
    "team_access_not_granted",
    "team_added_to_org",
    "token_expired",
    "token_revoked",
    "two_factor_setup_required",
}
"""Answers that every message would get.

Source: https://docs.slack.dev/reference/methods/chat.postMessage#errors
"""
_GONE = {"message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found"}
"""Answers to an update of a message that was deleted, or that another bot or the twin posted."""
_MOST_WAIT = 5.0
_RETRY_AFTER = 30.0


class Channel(Protocol):
    """Where messages go."""

    def post(self, message: Message) -> str:
        """Post a message; returns the reference by which it is updated."""

    def update(self, reference: str, message: Message) -> str:
        """Replace a posted message, or post it anew where it is gone; returns its reference."""


class Pace:
    """At most one call in so many seconds: Slack takes about one message a second for a channel.

    Source: https://docs.slack.dev/apis/web-api/rate-limits
    """

    def __init__(
        self,
        seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds, self._clock, self._sleep = seconds, clock, sleep
        self._free_at = clock()

    def wait(self) -> None:
        """Return when a call may be made. Raises ChannelUnavailable where that is not soon."""
        left = self._free_at - self._clock()
        if left > _MOST_WAIT:
            raise ChannelUnavailable(f"Slack wants no call for another {left:.0f} s.")
        if left > 0:
            self._sleep(left)
        self._free_at = self._clock() + self._seconds

    def hold(self, seconds: float) -> None:
        """Allow no call for so many seconds."""
        self._free_at = self._clock() + seconds


class SlackChannel(Block):
    """The Slack channel that is told what happens to each commit."""

    _block_type_name = "Samebits: Slack channel"
    _block_type_slug = "samebits-slack-channel"
    _description = "The Slack channel that is told; without a token, a local file and the console."
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    channel: str = Field(
        default="#integration", description="Channel's name or ID", examples=["#integration"]
    )
    token: SecretStr | None = Field(
        default=None,
        description="Bot token with chat:write; without one, messages go to a local file",
        examples=["xoxb-…"],
    )
    api_url: str = Field(
        default="https://slack.com/api/",
        description="Address of Slack's API",
        pattern="^https?://.*/$",
        examples=["https://slack.com/api/"],
    )

    def open(self, twin: Path, pace: Pace | None = None) -> Channel:
        """The channel; where no token is set its local twin, which writes to the file `twin`.

        `pace` is that of all calls to Slack, also of channels that were opened before.
        """
        token = self.token.get_secret_value().strip() if self.token else ""
        if not token:
            return LocalChannel(twin)
        if not token.isascii() or not token.isprintable():
            # The SDK would show it whole in its error.
            raise ChannelRefused("The Slack channel's token holds what no token does.")
        return _Slack(self.channel.strip().removeprefix("#"), token, self.api_url, pace or Pace())

    def check(self) -> str:
        """Whose token it is, by Slack's own word; empty where none is set. Nothing is posted.

        Raises what a message would, as far as that is known without one: whether the bot is in the
        channel is not.
        """
        opened = self.open(Path(os.devnull))
        return opened.owner() if isinstance(opened, _Slack) else ""


class _Slack:
    def __init__(self, channel: str, token: str, api_url: str, pace: Pace) -> None:
        self._channel, self._pace = channel, pace
        self._client = WebClient(
            token,
            base_url=api_url,
            timeout=15,
            # The default client does not retry a 5xx. A 429 is the pace's: the SDK's own handler
            # sleeps as long as Slack says, and nothing can wake it.
            retry_handlers=[
                ConnectionErrorRetryHandler(max_retry_count=1),
                ServerErrorRetryHandler(max_retry_count=1),
            ],
        )

    def post(self, message: Message) -> str:
        with self._calling():
            answer = self._client.chat_postMessage(
                channel=self._channel,
                unfurl_links=False,
                unfurl_media=False,
                **_content(message),
            )
            channel, ts = _text(answer, "channel"), _text(answer, "ts")
            if not channel or not ts:
                raise ValueError("it posted a message and did not say which")
            # An update needs the channel's ID, not its name.
            return f"{channel}/{ts}"

    def update(self, reference: str, message: Message) -> str:
        channel, _, ts = reference.partition("/")
        with self._calling():
            try:
                self._client.chat_update(channel=channel, ts=ts, **_content(message))
            except SlackApiError as error:
                if _text(error.response, "error") not in _GONE:
                    raise
            else:
                return reference
        return self.post(message)

    def owner(self) -> str:
        with self._calling():
            answer = self._client.auth_test()
            user, team = _text(answer, "user"), _text(answer, "team")
            if not user:
                raise ValueError("it did not say whose token this is")
        scopes = next((v for k, v in answer.headers.items() if k.lower() == "x-oauth-scopes"), "")
        if scopes and "chat:write" not in [scope.strip() for scope in scopes.split(",")]:
            raise ChannelRefused(
                "The Slack channel's token lacks the scope chat:write.",
                why=f"It has {one_line(scopes, 100)}.",
                hint="Add the scope in the app's settings, install the app again, and copy the new "
                "token into the block.",
            )
        return one_line(f"{user} of {team}" if team else user, 100)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        self._pace.wait()
        try:
            yield
        except SlackApiError as error:
            raise self._fault(error.response) from None
        except (SlackClientError, OSError, HTTPException, ValueError, KeyError) as error:
            raise ChannelUnavailable(
                "Slack does not answer, or not as Slack.",
                why=one_line(f"{type(error).__name__}: {error}", 200),
            ) from None

    def _fault(self, answer: SlackResponse) -> SamebitsError:
        code = one_line(_text(answer, "error") or str(answer.status_code))
        if answer.status_code == 429:
            self._pace.hold(_retry_after(answer.headers))
        if answer.status_code == 429 or answer.status_code >= 500 or code in _PASSING:
            return ChannelUnavailable(f"Slack answered {answer.status_code}: {code}.")
        if answer.status_code == 200 and code.isidentifier() and not _refuses_all(code):
            return MessageRefused(f"Slack refused a message: {code}.")
        return ChannelRefused(
            f"Slack refused the channel {self._channel}: {code}.",
            hint="Check the token, its scope (chat:write) and that the bot is in the channel.",
        )


def _content(message: Message) -> dict[str, Any]:
    # What comes from outside must call nobody: chat.update looks for names where `parse` is unset.
    # https://docs.slack.dev/reference/methods/chat.update
    return {
        "text": message.text,
        "attachments": message.attachments(),
        "parse": "none",
        "link_names": False,
    }


def _text(answer: SlackResponse, name: str) -> str:
    """A field of an answer; empty where whatever answered is not Slack."""
    return str(answer.data.get(name) or "") if isinstance(answer.data, dict) else ""


def _refuses_all(code: str) -> bool:
    return code in _REFUSES_ALL or code.startswith("restricted_action")


def _retry_after(headers: dict[str, str]) -> float:
    """The seconds that a 429 asks for. Source: https://docs.slack.dev/apis/web-api/rate-limits."""
    value = next((v for name, v in headers.items() if name.lower() == "retry-after"), "")
    return float(value) if value.isdecimal() else _RETRY_AFTER


class LocalChannel:
    """The twin of a Slack channel: a JSON line for each post and update, and the console."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def post(self, message: Message) -> str:
        return self._write("post", "", message)

    def update(self, reference: str, message: Message) -> str:
        return self._write("update", reference, message)

    def _write(self, action: str, reference: str, message: Message) -> str:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                reference = reference or f"local/{file.tell()}"
                line = {"action": action, "message": reference, "text": message.plain()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ChannelUnavailable(f"{self._path} cannot be written.", why=str(error)) from error
        logging.getLogger("samebits.channel").info("%s", message.text)
        return reference
