"""What the channel is told: one message for each run, made anew from how the run stands."""

import re
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from domain.commit import Commit
from domain.errors import LOG_MARK

STEPS = ("build", "test", "publish", "deploy")
_MOST_SECTION = 2900
_MOST_LOG_LINES = 12
_MOST_ENDINGS = 8


class Status(StrEnum):
    """How a run or a step stands, in the words of the channel."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    PASSED = "passed"
    CACHED = "cached"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    CRASHED = "crashed"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come without a retry."""
        return self not in (Status.SCHEDULED, Status.RUNNING)


_SIGNS = {
    Status.SCHEDULED: "🕓",
    Status.RUNNING: "⏳",
    Status.PASSED: "✅",
    Status.CACHED: "♻️",
    Status.FAILED: "❌",
    Status.CANCELLED: "⛔",
    Status.SUPERSEDED: "⏭️",
    Status.CRASHED: "💥",
}
_COLOURS = {
    Status.PASSED: "#2eb67d",
    Status.FAILED: "#e01e5a",
    Status.CRASHED: "#e01e5a",
    Status.CANCELLED: "#8d8d8d",
    Status.SUPERSEDED: "#8d8d8d",
}


class StepReport(BaseModel):
    """A step of a run: its name, how it stands, how long it took in seconds, and what it noted."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: Status
    seconds: float | None = None
    note: str = ""


class Ending(BaseModel):
    """How a try of a run ended."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    how: str
    """A Status, or `cut off` for one that was started again by itself"""
    reason: str = ""


class RunReport(BaseModel):
    """All that the channel is told of a run."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    kind: str
    """`pipeline`, `redeploy` or `prune`"""
    commit: Commit
    stack: str | None
    status: Status
    attempt: int
    steps: tuple[StepReport, ...] = ()
    reason: str = ""
    """Why it failed, whole: the first lines say it, those that begin with LOG_MARK are the log"""
    earlier: tuple[Ending, ...] = ()
    """How its earlier tries ended, oldest first"""
    run_url: str = ""
    commit_url: str = ""

    @property
    def endings(self) -> tuple[Ending, ...]:
        """How all its tries have ended so far."""
        last = Ending(attempt=self.attempt, how=self.status, reason=self.reason)
        return (*self.earlier, last) if self.status.ended else self.earlier


class Message(BaseModel):
    """A message, for Slack and for a console."""

    model_config = ConfigDict(frozen=True)

    text: str
    """The headline, which notifications show too; escaped for Slack"""
    sections: tuple[str, ...]
    """Slack's mrkdwn, each at most 3,000 characters"""
    colour: str

    def attachments(self) -> list[dict[str, Any]]:
        """The message as Slack's Block Kit, with a colour at its side."""
        # verbatim: a name or an address in what others wrote is not made a mention or a link.
        blocks = [
            {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
            for text in self.sections[1:]  # the first is the text above
        ]
        return [{"color": self.colour, "blocks": blocks}]

    def plain(self) -> str:
        """The message for people who read it elsewhere, unescaped."""
        text = "\n".join(self.sections)
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def escaped(text: str) -> str:
    """Text from outside, so that it cannot call `<!channel>`.

    Source: https://docs.slack.dev/messaging/formatting-message-text#escaping
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def message_of(run: RunReport) -> Message:
    """The message that a run's state calls for."""
    commit = run.commit
    where = f" → {run.stack}" if run.stack else ""
    named = (commit.repository, f"{commit.shown_branch}{where}", run.status)
    title = escaped(" · ".join(part for part in named if part))
    sections = [
        f"{_SIGNS[run.status]} *{title}*"
        + (f" (attempt {run.attempt})" if run.attempt > 1 else ""),
        _what(run),
        _steps(run),
        _notes(run),
        *_why(run.reason),
        _earlier(run.earlier),
        _link(run.run_url, "run in the Prefect UI"),
    ]
    return Message(
        text=sections[0],
        sections=tuple(section for section in sections if section),
        colour=_COLOURS.get(run.status, "#36c5f0"),
    )


def _what(run: RunReport) -> str:
    if run.kind == "prune":
        done = run.status is Status.PASSED
        return "" if done else "What nothing needs was not removed: the disk fills."
    commit = run.commit
    sha = _link(run.commit_url, commit.short_sha) or f"`{escaped(commit.short_sha)}`"
    whose = f" by *{escaped(commit.author)}*" if commit.author else ""
    kind = "redeploy: " if run.kind == "redeploy" else ""
    return f"{kind}{sha} {escaped(commit.subject)}{whose}".strip()


def _steps(run: RunReport) -> str:
    return "   ".join(
        f"{_SIGNS[step.status]} {step.name}"
        + (f" {step.seconds:.1f} s" if step.status.ended and step.seconds is not None else "")
        for step in run.steps
    )


def _notes(run: RunReport) -> str:
    return _cut("\n".join(f"{step.name}: {escaped(step.note)}" for step in run.steps if step.note))


def _earlier(endings: tuple[Ending, ...]) -> str:
    return _cut(
        "\n".join(
            escaped(f"attempt {ending.attempt} {ending.how}: {ending.reason}".removesuffix(": "))
            for ending in endings[-_MOST_ENDINGS:]
        )
    )


def _why(reason: str) -> list[str]:
    if not reason:
        return []
    lines = reason.splitlines()
    log = [line.removeprefix(LOG_MARK) for line in lines if line.startswith(LOG_MARK)]
    said = "\n".join(line for line in lines if not line.startswith(LOG_MARK))
    sections = [_cut(escaped(said))]
    if log:
        sections.append("```" + _tail(log) + "```")
    return sections


def _cut(text: str) -> str:
    """As much of a text, which is escaped, as fits into a section."""
    if len(text) <= _MOST_SECTION:
        return text
    return re.sub(r"&\w*\Z", "", text[:_MOST_SECTION])  # the end may be half of an escape


def _tail(log: list[str]) -> str:
    """The last lines that fit into a section; backticks would end its code block."""
    text = escaped("\n".join(log[-_MOST_LOG_LINES:])).replace("```", "'''")
    if len(text) <= _MOST_SECTION:
        return text
    # The beginning may be half of an escape.
    return "…" + re.sub(r"\A\w*;", "", text[-_MOST_SECTION:])


def _link(url: str, text: str) -> str:
    return f"<{escaped(url).replace('|', '%7C')}|{escaped(text)}>" if url else ""
