"""The channel: slack-sdk against a Slack that keeps state, and the local twin."""

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from blocks.channel import Channel, Pace, SlackChannel
from domain.commit import Commit
from domain.errors import ChannelRefused, ChannelUnavailable, MessageRefused, SamebitsError
from domain.message import Message, RunReport, Status, message_of
from tests.slack import TOKEN, Slack

SHA = "0123456789abcdef0123456789abcdef01234567"


def message(status: Status = Status.RUNNING, subject: str = "Say hello") -> Message:
    commit = Commit(
        repository="hello-service", branch="master", sha=SHA, subject=subject, author="Ada"
    )
    return message_of(
        RunReport(
            run_id="r", kind="pipeline", commit=commit, stack="prod", status=status, attempt=1
        )
    )


def opened(block: SlackChannel) -> Channel:
    return block.open(Path("unused"), Pace(0))


# -- against the emulator ---------------------------------------------------------------------


def test_a_message_that_is_updated_stays_one_message(slack: Slack) -> None:
    channel = opened(slack.block())
    reference = channel.post(message(Status.SCHEDULED))
    for status in (Status.RUNNING, Status.PASSED):
        assert channel.update(reference, message(status)) == reference
    (told,) = slack.messages()
    assert told["text"] == message(Status.PASSED).text


def test_slack_holds_the_markup_that_was_sent(slack: Slack) -> None:
    opened(slack.block()).post(message())
    (told,) = slack.messages()
    assert told["attachments"] == message().attachments()


def test_each_run_has_a_message_of_its_own(slack: Slack) -> None:
    channel = opened(slack.block())
    first, second = channel.post(message(subject="One")), channel.post(message(subject="Two"))
    channel.update(first, message(Status.PASSED, "One"))
    channel.update(second, message(Status.FAILED, "Two"))
    assert [told["text"] for told in slack.messages()] == [
        message(Status.PASSED, "One").text,
        message(Status.FAILED, "Two").text,
    ]


@pytest.mark.parametrize("name", ["integration", "#integration"])
def test_the_channel_is_found_by_its_name_with_and_without_a_hash(slack: Slack, name: str) -> None:
    opened(slack.block(channel=name)).post(message())
    assert len(slack.messages()) == 1


def test_a_hostile_subject_calls_nobody(slack: Slack) -> None:
    hostile = "<!channel> <@U123> @here <https://evil.example|a link> &lt;"
    channel = opened(slack.block())
    channel.update(channel.post(message(subject=hostile)), message(Status.FAILED, hostile))
    (told,) = slack.messages()
    texts = [block["text"] for block in told["attachments"][0]["blocks"]]
    assert all(text["verbatim"] for text in texts)
    for said in (told["text"], *(text["text"] for text in texts)):
        assert not any(call in said for call in ("<!", "<@", "<https://evil"))
    assert "&lt;!channel&gt;" in texts[0]["text"]


def test_a_message_that_somebody_deleted_is_posted_anew(slack: Slack) -> None:
    channel = opened(slack.block())
    old = channel.post(message())
    slack.clear()
    new = channel.update(old, message(Status.PASSED))
    assert new != old
    channel.update(new, message(Status.FAILED))
    assert [told["text"] for told in slack.messages()] == [message(Status.FAILED).text]


def test_a_message_that_the_local_twin_was_told_is_posted_to_slack(slack: Slack) -> None:
    reference = opened(slack.block()).update("local/0", message())
    assert not reference.startswith("local/")
    assert len(slack.messages()) == 1


def test_an_unknown_channel_is_refused(slack: Slack) -> None:
    with pytest.raises(ChannelRefused, match="nowhere: channel_not_found"):
        opened(slack.block(channel="#nowhere")).post(message())


def test_a_wrong_token_is_refused_and_shown_nowhere(slack: Slack) -> None:
    wrong = "xoxb-some-other-token"
    block = slack.block(token=SecretStr(wrong))
    channel = opened(block)
    with pytest.raises(ChannelRefused) as caught:
        channel.post(message())
    assert not isinstance(caught.value, MessageRefused)
    assert wrong not in f"{caught.value!s} {caught.value!r} {block!r} {block!s} {channel!r}"


@pytest.mark.parametrize("token", ["xoxb-a\nX-Other: b", "xoxb-ä"])
def test_what_no_token_can_be_is_refused_and_not_shown(slack: Slack, token: str) -> None:
    with pytest.raises(ChannelRefused) as caught:
        opened(slack.block(token=SecretStr(token)))
    assert "xoxb" not in str(caught.value)


def test_a_token_with_a_line_break_at_its_end_works(slack: Slack) -> None:
    opened(slack.block(token=SecretStr(f"{TOKEN}\n"))).post(message())
    assert len(slack.messages()) == 1


# -- a Slack that stumbles --------------------------------------------------------------------


@dataclass
class Door:
    """A door in front of a Slack: its next answers are these; where none is left, Slack's own."""

    slack_url: str
    url: str = ""
    answers: deque[tuple[int, dict[str, str], str]] = field(default_factory=deque)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def next(self, status: int, body: object = "", **headers: str) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.answers.append((status, {k.replace("_", "-"): v for k, v in headers.items()}, text))

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, str]:
        self.calls.append(json.loads(body or "{}"))
        if self.answers:
            return self.answers.popleft()
        kept = {k: v for k, v in headers.items() if k.lower() in ("authorization", "content-type")}
        answer = httpx.post(self.slack_url + path.rpartition("/")[2], content=body, headers=kept)
        return answer.status_code, {}, answer.text


@contextmanager
def served(door: Door) -> Iterator[Door]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, text = door.answer(self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        door.url = f"http://127.0.0.1:{server.server_port}/api/"
        try:
            yield door
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def door(slack: Slack) -> Iterator[Door]:
    with served(Door(slack.url)) as door:
        yield door


def test_a_single_500_is_bridged(slack: Slack, door: Door) -> None:
    door.next(500, "<html>Oh no</html>")
    opened(slack.block(api_url=door.url)).post(message())
    assert len(door.calls) == 2
    assert len(slack.messages()) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_slack_that_answers_5xx_is_away(slack: Slack, door: Door, status: int) -> None:
    for _ in range(2):
        door.next(status, "<html>Oh no</html>")
    with pytest.raises(ChannelUnavailable, match=str(status)):
        opened(slack.block(api_url=door.url)).post(message())


def test_after_a_429_slack_is_left_alone_as_long_as_it_asked(slack: Slack, door: Door) -> None:
    clock = Clock()
    pace = Pace(1, clock.now, clock.sleep)
    channel = slack.block(api_url=door.url).open(Path("unused"), pace)
    door.next(429, {"ok": False, "error": "ratelimited"}, Retry_After="30")
    with pytest.raises(ChannelUnavailable, match="429"):
        channel.post(message())
    clock.time += 10
    again = slack.block(api_url=door.url).open(Path("unused"), pace)
    with pytest.raises(ChannelUnavailable, match="another 20 s"):
        again.post(message())
    assert len(door.calls) == 1
    clock.time += 17
    again.post(message())
    assert clock.slept == [3]
    assert len(slack.messages()) == 1


@pytest.mark.parametrize("error", ["ratelimited", "internal_error", "fatal_error"])
def test_an_error_of_slacks_own_is_passing(slack: Slack, door: Door, error: str) -> None:
    door.next(200, {"ok": False, "error": error})
    with pytest.raises(ChannelUnavailable, match=error):
        opened(slack.block(api_url=door.url)).post(message())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("invalid_auth", ChannelRefused),
        ("restricted_action_read_only_channel", ChannelRefused),
        ("invalid_blocks", MessageRefused),
        ("msg_too_long", MessageRefused),
        ("an_error_of_next_year", MessageRefused),
    ],
)
def test_what_every_message_would_get_is_told_from_what_one_message_gets(
    slack: Slack, door: Door, error: str, kind: type[SamebitsError]
) -> None:
    door.next(200, {"ok": False, "error": error})
    with pytest.raises(ChannelRefused, match=error) as caught:
        opened(slack.block(api_url=door.url)).post(message())
    assert type(caught.value) is kind


def test_a_page_that_is_not_slack_refuses_all(slack: Slack, door: Door) -> None:
    door.next(404, "<html>No such page</html>")
    with pytest.raises(ChannelRefused) as caught:
        opened(slack.block(api_url=door.url)).post(message())
    assert not isinstance(caught.value, MessageRefused)


@pytest.mark.parametrize("body", ['{"ok": true}', '{"ok": tr', "[]"])
def test_an_answer_that_is_not_slacks_leaves_the_message_to_be_sent_later(
    slack: Slack, door: Door, body: str
) -> None:
    door.next(200, body)
    door.next(200, body)
    with pytest.raises((ChannelUnavailable, ChannelRefused)) as caught:
        opened(slack.block(api_url=door.url)).post(message())
    assert not isinstance(caught.value, MessageRefused)


def test_a_slack_that_is_down_is_unavailable_and_the_token_is_not_shown(slack: Slack) -> None:
    with served(Door(slack.url)) as door:
        channel = opened(slack.block(api_url=door.url))
    with pytest.raises(ChannelUnavailable) as caught:
        channel.post(message())
    assert TOKEN not in f"{caught.value!s} {caught.value!r}"


def test_names_in_what_others_wrote_are_not_looked_for(slack: Slack, door: Door) -> None:
    channel = opened(slack.block(api_url=door.url))
    channel.update(channel.post(message()), message(Status.PASSED))
    assert [call["parse"] for call in door.calls] == ["none", "none"]
    assert not any(call["link_names"] for call in door.calls)


# -- the pace ---------------------------------------------------------------------------------


@dataclass
class Clock:
    """A clock that goes on only when somebody sleeps."""

    time: float = 100.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def test_calls_keep_a_second_apart_also_across_channels_opened_anew(slack: Slack) -> None:
    clock = Clock()
    pace = Pace(1, clock.now, clock.sleep)
    reference = slack.block().open(Path("unused"), pace).post(message())
    clock.time += 0.25
    slack.block().open(Path("unused"), pace).update(reference, message(Status.PASSED))
    clock.time += 5
    slack.block().open(Path("unused"), pace).update(reference, message(Status.FAILED))
    assert clock.slept == [0.75]


# -- looking without a message ------------------------------------------------------------------


def test_a_look_says_whose_token_it_is_and_posts_nothing(slack: Slack) -> None:
    assert slack.block().check()
    assert slack.messages() == []
    assert SlackChannel().check() == ""


def test_a_look_is_refused_with_a_token_that_slack_does_not_know(slack: Slack, door: Door) -> None:
    # The emulator's auth.test knows every token.
    door.next(200, {"ok": False, "error": "invalid_auth"})
    with pytest.raises(ChannelRefused, match="invalid_auth"):
        slack.block(api_url=door.url).check()


def test_a_look_sees_that_the_token_may_not_write(slack: Slack, door: Door) -> None:
    answer = {"ok": True, "user": "samebits", "team": "Tests"}
    block = slack.block(api_url=door.url)
    door.next(200, answer, X_OAuth_Scopes="channels:read,chat:write")
    assert block.check() == "samebits of Tests"
    door.next(200, answer, X_OAuth_Scopes="channels:read")
    with pytest.raises(ChannelRefused, match="lacks the scope chat:write"):
        block.check()


# -- the local twin ---------------------------------------------------------------------------


def test_without_a_token_each_action_is_a_line_and_an_update_names_its_post(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "channel.jsonl"
    channel = SlackChannel(token=SecretStr(" ")).open(file, Pace(60))
    first = channel.post(message(subject="Ünï <!channel>"))
    second = channel.post(message(subject="Two"))
    assert channel.update(first, message(Status.PASSED, "Ünï <!channel>")) == first
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(line["action"], line["message"]) for line in lines] == [
        ("post", first),
        ("post", second),
        ("update", first),
    ]
    assert first != second
    assert lines[2]["text"] == message(Status.PASSED, "Ünï <!channel>").plain()


def test_the_local_twin_writes_what_is_no_text(tmp_path: Path) -> None:
    SlackChannel().open(tmp_path / "file").post(
        Message(text="t", sections=("half \ud83d",), colour="#000000")
    )
    assert json.loads((tmp_path / "file").read_text())["text"] == "half ?"


def test_a_twin_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ChannelUnavailable, match="cannot be written"):
        SlackChannel().open(tmp_path).post(message())
