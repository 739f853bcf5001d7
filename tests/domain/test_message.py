"""What the channel is told: complete, within Slack's limits, and harmless."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commit import Commit
from domain.errors import BuildFailed
from domain.message import Message, RunReport, Status, StepReport, escaped, message_of
from tests.wild import branches, nasty, quick, text

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMIT = Commit(repository="hello", branch="master", sha=SHA, subject="Fix it", author="Ada")
LINK = re.compile(r"<https?://[^<>|]*\|[^<>]*>")
ESCAPE = re.compile("&(amp|lt|gt);")


def report(**changed: Any) -> RunReport:
    """The report of a run that passed, with some of it changed."""
    whole: dict[str, Any] = {
        "run_id": "1",
        "kind": "pipeline",
        "commit": COMMIT,
        "stack": "stage",
        "status": Status.PASSED,
        "attempt": 1,
        "run_url": "http://127.0.0.1:4200/runs/flow-run/1",
    }
    return RunReport.model_validate(whole | changed)


def shown(message: Message) -> list[str]:
    """Each text of a message that Slack gets."""
    blocks = message.attachments()[0]["blocks"]
    return [message.text, *(block["text"]["text"] for block in blocks)]


def test_a_message_says_what_runs_where_and_how_it_stands() -> None:
    steps = (
        StepReport(name="build", status=Status.CACHED, seconds=0.04),
        StepReport(name="test", status=Status.PASSED, seconds=2.26),
        StepReport(name="publish", status=Status.RUNNING, seconds=1.0),
    )
    message = message_of(report(status=Status.RUNNING, steps=steps, attempt=2))
    assert message.text == "⏳ *hello · master → stage · running* (attempt 2)"
    assert message.sections == (
        "⏳ *hello · master → stage · running* (attempt 2)",
        "`01234567` Fix it by *Ada*",
        "♻️ build 0.0 s   ✅ test 2.3 s   ⏳ publish",
        "<http://127.0.0.1:4200/runs/flow-run/1|run in the Prefect UI>",
    )


def test_a_commit_without_a_page_subject_or_author_is_told_all_the_same() -> None:
    commit = Commit(repository="hello", branch="master")
    message = message_of(report(commit=commit, stack=None, run_url=""))
    assert message.sections == ("✅ *hello · master · passed*", "`head`")


def test_a_redeploy_says_that_it_is_one() -> None:
    assert message_of(report(kind="redeploy")).sections[1].startswith("redeploy: ")


def test_a_commit_with_a_page_is_a_link_to_it() -> None:
    message = message_of(report(commit_url="https://github.com/a/b/commit/0"))
    assert message.sections[1].startswith("<https://github.com/a/b/commit/0|01234567> Fix it")


def test_a_failure_says_why_first_and_shows_its_log_as_code() -> None:
    error = BuildFailed("It failed.", hint="Mend <it>.", log=["a < b", "```", "50 %\rdone"])
    message = message_of(report(status=Status.FAILED, reason=str(error)))
    assert message.sections[2] == "It failed. Mend &lt;it&gt;."
    assert message.sections[3] == "```a &lt; b\n'''\n50 %\ndone```"


def test_what_a_step_notes_is_told_with_its_name() -> None:
    step = StepReport(name="deploy", status=Status.PASSED, seconds=1, note="scan: <1> critical")
    message = message_of(report(steps=(step,)))
    assert "deploy: scan: &lt;1&gt; critical" in message.sections


def test_a_subject_cannot_call_the_channel() -> None:
    commit = COMMIT.model_copy(
        update={"subject": "<!channel> & <@U1>", "author": "<!here>", "branch": "<!everyone>"}
    )
    message = message_of(report(commit=commit, stack="<!a>", status="failed", reason="<!b>"))
    for part in shown(message):
        assert "<!" not in part
        assert "<@" not in part
    assert "&lt;!channel&gt; &amp; &lt;@U1&gt;" in message.sections[1]


def test_a_sha_and_an_address_cannot_call_the_channel_either() -> None:
    commit = Commit.model_construct(
        None, repository="", branch="", sha="<!here>", subject="", author=""
    )
    for url in ("", "https://github.com/a/b/commit/<!here>|<!here>"):
        for part in shown(message_of(report(commit=commit, commit_url=url))):
            assert "<!" not in part


@pytest.mark.parametrize("character", ["x", "&", "<", "`", "ü", "\n"])
def test_a_reason_of_any_length_fits_into_slacks_sections(character: str) -> None:
    error = BuildFailed(character * 9000, log=[character * 9000] * 50)
    for part in shown(message_of(report(status=Status.FAILED, reason=str(error)))):
        assert len(part) <= 3000
        assert "&" not in ESCAPE.sub("", part)


@quick
@given(
    st.builds(Commit, repository=st.just("hello"), branch=branches, subject=nasty, author=text),
    st.sampled_from(Status),
    st.one_of(text, nasty, st.tuples(nasty, st.lists(nasty)).map(lambda e: str(_error(*e)))),
    st.one_of(st.none(), nasty),
)
def test_whatever_is_told_it_fits_and_holds_no_markup_but_ours(
    commit: Commit, status: Status, reason: str, stack: str | None
) -> None:
    message = message_of(report(commit=commit, status=status, reason=reason, stack=stack))
    parts = shown(message)
    assert len(parts) <= 50
    for part in parts:
        assert 0 < len(part) <= 3000
        rest = LINK.sub("", part)
        assert "<" not in rest
        assert ">" not in rest
        assert "&" not in ESCAPE.sub("", part)


def _error(what: str, log: list[str]) -> BuildFailed:
    return BuildFailed(what, log=log)


@quick
@given(st.one_of(text, nasty, st.just("&lt; &amp;lt; &amp;amp;")))
def test_a_plain_message_reads_as_what_was_written(wild: str) -> None:
    assert Message(text="", sections=(escaped(wild),), colour="").plain() == wild


def test_a_plain_message_is_all_sections() -> None:
    message = message_of(report(commit=COMMIT.model_copy(update={"subject": "a < b && c"})))
    assert "a < b && c" in message.plain()
    assert len(message.plain().splitlines()) == len(message.sections)


def test_a_run_has_ended_unless_it_waits_or_runs() -> None:
    assert [s for s in Status if not s.ended] == [Status.SCHEDULED, Status.RUNNING]


def test_good_and_bad_ends_have_colours_of_their_own() -> None:
    colours = {s: message_of(report(status=s)).attachments()[0]["color"] for s in Status}
    assert colours[Status.FAILED] == colours[Status.CRASHED]
    assert len({colours[s] for s in (Status.PASSED, Status.FAILED, Status.RUNNING)}) == 3


def test_a_message_of_a_run_that_was_tried_often_fits_into_what_slack_takes() -> None:
    earlier = [{"attempt": n, "how": "failed", "reason": "<&>" * 80} for n in range(1, 12)]
    steps = [{"name": n, "status": "passed", "note": "&" * 240} for n in ("build", "test")]
    message = message_of(report(earlier=earlier, steps=steps * 3, reason="&" * 5000))
    assert max(len(section) for section in message.sections) <= 3000
