"""From what Prefect knows of a run to what the channel is told of it."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun

from deployments.reports import report_of
from domain.errors import BuildFailed
from domain.marks import RESTARTED, SUPERSEDED, gives_way, way_given
from domain.message import Ending, Status, message_of
from tests.wild import nasty, quick, text

RUN, FLOW = UUID(int=1), UUID(int=2)
SHA = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"
COMMIT = {"repository": "hello", "branch": "master", "sha": SHA, "subject": "Fix", "author": "Ada"}


def state(kind: StateType, name: str | None = None, message: str = "") -> State[Any]:
    return State(type=kind, name=name, message=message)


def flow_run(now: State[Any] | None, **changed: Any) -> FlowRun:
    """A run of the pipeline, as Prefect's API describes it."""
    whole = {"parameters": {"commit": COMMIT, "stack": "stage"}, "run_count": 1} | changed
    return FlowRun(id=RUN, flow_id=FLOW, name="run", state=now, **whole)


def task_run(name: str, now: State[Any] | None, seconds: float = 0) -> TaskRun:
    """A try of a step, as Prefect's API describes it."""
    return TaskRun(
        flow_run_id=RUN,
        task_key=name,
        dynamic_key="0",
        name=f"{name}-a1b",
        state=now,
        total_run_time=timedelta(seconds=seconds),
    )


DONE = state(StateType.COMPLETED)
RUNNING = state(StateType.RUNNING)


def test_a_report_names_the_run_the_commit_and_the_stack() -> None:
    report = report_of(flow_run(RUNNING), "pipeline", [], "https://github.com/a/b/commit/0")
    assert report.run_id == str(RUN)
    assert report.kind == "pipeline"
    assert report.commit.model_dump() == COMMIT
    assert report.stack == "stage"
    assert report.run_url.endswith(f"/runs/flow-run/{RUN}")
    assert report.commit_url == "https://github.com/a/b/commit/0"


@pytest.mark.parametrize(
    ("now", "status"),
    [
        (None, Status.SCHEDULED),
        (state(StateType.SCHEDULED, "Late"), Status.SCHEDULED),
        (state(StateType.SCHEDULED, "AwaitingRetry"), Status.SCHEDULED),
        (state(StateType.PENDING), Status.RUNNING),
        (RUNNING, Status.RUNNING),
        (state(StateType.PAUSED), Status.RUNNING),
        (state(StateType.CANCELLING), Status.RUNNING),
        (DONE, Status.PASSED),
        (state(StateType.COMPLETED, "Cached"), Status.CACHED),
        (state(StateType.FAILED), Status.FAILED),
        (state(StateType.FAILED, "TimedOut"), Status.FAILED),
        (state(StateType.CANCELLED), Status.CANCELLED),
        (state(StateType.CANCELLED, SUPERSEDED), Status.SUPERSEDED),
        (state(StateType.SCHEDULED, RESTARTED), Status.SCHEDULED),
        (state(StateType.CRASHED), Status.CRASHED),
    ],
)
def test_each_state_of_prefect_has_a_word_of_the_channel(
    now: State[Any] | None, status: Status
) -> None:
    assert report_of(flow_run(now), "pipeline", [], "").status == status


def test_every_type_of_state_is_told() -> None:
    for kind in StateType:
        report = report_of(flow_run(state(kind)), "pipeline", [task_run("test", state(kind))], "")
        assert message_of(report).sections


def test_steps_are_told_in_their_order_by_their_last_try() -> None:
    tries = [
        task_run("build", state(StateType.COMPLETED, "Cached"), 0.1),
        task_run("deploy", RUNNING, 1),
        task_run("test", state(StateType.FAILED), 5),
        task_run("test", DONE, 2),
        task_run("anything-else", DONE),
    ]
    steps = report_of(flow_run(RUNNING), "pipeline", tries, "").steps
    assert [(step.name, step.status, step.seconds) for step in steps] == [
        ("build", Status.CACHED, 0.1),
        ("test", Status.PASSED, 2.0),
        ("deploy", Status.RUNNING, 1.0),
    ]


def test_what_a_step_says_of_itself_is_told_once_it_has_passed() -> None:
    said = "scan: 1 critical"
    for kind, note in ((StateType.COMPLETED, said), (StateType.FAILED, "")):
        tries = [task_run("deploy", state(kind, message=said))]
        (step,) = report_of(flow_run(state(kind)), "pipeline", tries, "").steps
        assert step.note == note


def test_a_step_that_prefect_has_only_heard_of_runs() -> None:
    (step,) = report_of(flow_run(RUNNING), "pipeline", [task_run("build", None)], "").steps
    assert step.status == Status.RUNNING


@pytest.mark.parametrize("kind", [StateType.CRASHED, StateType.CANCELLED, StateType.FAILED])
def test_a_step_that_was_cut_off_ended_as_its_run_did(kind: StateType) -> None:
    tries = [task_run("build", DONE), task_run("test", RUNNING), task_run("publish", None)]
    report = report_of(flow_run(state(kind)), "pipeline", tries, "")
    assert [step.status for step in report.steps] == [Status.PASSED, report.status, report.status]


def test_a_failure_says_why_without_prefects_own_words() -> None:
    error = BuildFailed("It failed.", hint="Mend it.", log=["one", "two"])
    message = f"Flow run encountered an exception: BuildFailed: {error}"
    report = report_of(flow_run(state(StateType.FAILED, message=message)), "pipeline", [], "")
    assert report.reason == str(error)


@pytest.mark.parametrize("kind", [StateType.COMPLETED, StateType.RUNNING, StateType.SCHEDULED])
def test_a_run_that_is_well_needs_no_reason(kind: StateType) -> None:
    run = flow_run(state(kind, message="All states completed."))
    assert report_of(run, "pipeline", [], "").reason == ""


@pytest.mark.parametrize(("count", "labelled"), [(1, 1), (0, 0), (0, 1), (2, 2), (2, 3)])
def test_a_cancelled_run_that_gave_way_is_superseded_and_so_are_its_steps(
    count: int, labelled: int
) -> None:
    labels, cancelled = gives_way(labelled, SHA), state(StateType.CANCELLED, message="Prefect's.")
    run = flow_run(cancelled, labels=labels, run_count=count)
    report = report_of(run, "pipeline", [task_run("build", DONE), task_run("test", RUNNING)], "")
    assert report.status == Status.SUPERSEDED
    assert report.reason == way_given(SHA)
    assert [step.status for step in report.steps] == [Status.PASSED, Status.SUPERSEDED]


@pytest.mark.parametrize("labelled", [1, 2, 5])
def test_a_try_that_a_person_cancelled_is_not_superseded_for_an_earlier_one(labelled: int) -> None:
    run = flow_run(state(StateType.CANCELLED), labels=gives_way(labelled, SHA), run_count=3)
    assert report_of(run, "pipeline", [], "").status == Status.CANCELLED


def test_a_run_that_was_to_give_way_and_had_passed_has_passed() -> None:
    run = flow_run(DONE, labels=gives_way(1, SHA))
    assert report_of(run, "pipeline", [], "").status == Status.PASSED


def test_what_a_superseded_state_says_is_told() -> None:
    said = "Commit 61137280 gave way to 01234567, which runs now."
    now = state(StateType.CANCELLED, SUPERSEDED, said)
    report = report_of(flow_run(now), "pipeline", [task_run("deploy", now)], "")
    assert report.reason == said
    assert [step.status for step in report.steps] == [Status.SUPERSEDED]


def test_a_run_that_was_cut_off_says_why_it_waits() -> None:
    now = state(StateType.SCHEDULED, RESTARTED, "It goes on by itself (1 of at most 2).")
    report = report_of(flow_run(now), "pipeline", [], "")
    assert report.status == Status.SCHEDULED
    assert report.reason == "It goes on by itself (1 of at most 2)."


def test_how_earlier_tries_ended_is_told_in_their_order() -> None:
    error = f"Flow run encountered an exception: BuildFailed: {BuildFailed('No.', log=['x'])}"
    states = [
        state(StateType.SCHEDULED),
        state(StateType.CANCELLED, message="gave way"),
        state(StateType.CANCELLED, SUPERSEDED, "It gave way to 01234567."),
        state(StateType.SCHEDULED, "AwaitingRetry"),
        state(StateType.PENDING),
        RUNNING,
        state(StateType.FAILED, message=error),
        state(StateType.SCHEDULED, "AwaitingRetry"),
        RUNNING,
        state(StateType.SCHEDULED, RESTARTED, "It goes on by itself."),
        RUNNING,
        state(StateType.CRASHED, message="It died."),
    ]
    run = flow_run(states[-1], run_count=3)
    report = report_of(run, "pipeline", [], "", states)
    assert report.earlier == (
        Ending(attempt=1, how="superseded", reason="It gave way to 01234567."),
        Ending(attempt=1, how="failed", reason="No."),
        Ending(attempt=2, how="cut off", reason="It goes on by itself."),
    )
    assert report.endings[-1] == Ending(attempt=3, how="crashed", reason="It died.")


def test_a_run_that_has_not_ended_yet_has_no_end() -> None:
    report = report_of(flow_run(RUNNING), "pipeline", [], "", [state(StateType.PENDING), RUNNING])
    assert report.endings == ()


def test_attempts_are_counted_from_one() -> None:
    attempts = [
        report_of(flow_run(RUNNING, run_count=n), "pipeline", [], "").attempt for n in (0, 1, 2)
    ]
    assert attempts == [1, 1, 2]


def test_a_redeploy_shows_the_image_and_the_reason_as_its_commit() -> None:
    digest = "sha256:" + "a" * 64
    parameters = {"repository": "hello", "stack": "prod", "image": digest, "reason": "Too slow"}
    report = report_of(flow_run(DONE, parameters=parameters), "redeploy", [], "")
    assert report.stack == "prod"
    assert report.commit.title == "redeploy aaaaaaaa Too slow"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"commit": None},
        {"commit": "master"},
        {"commit": {"repository": "../x", "branch": "--bad", "sha": "HEAD"}},
        {"commit": {"branch": None, "sha": 7, "color": "red"}, "stack": 7},
        {"commit": {"branch": "x" * 9000, "subject": "y\n" * 9000}, "stack": "z" * 9000},
        {"repository": None, "image": None, "reason": ["x"]},
    ],
)
def test_what_a_person_typed_wrong_is_told_as_far_as_it_goes(parameters: dict[str, Any]) -> None:
    run = flow_run(state(StateType.FAILED), parameters=parameters)
    message = message_of(report_of(run, "pipeline", [], ""))
    assert all(0 < len(section) <= 3000 for section in message.sections)


values = st.one_of(st.none(), st.integers(), text, nasty.map(lambda part: part * 200))


@quick
@given(
    st.lists(
        st.builds(
            state,
            st.sampled_from(StateType),
            st.sampled_from([None, SUPERSEDED, RESTARTED]),
            st.one_of(text, nasty.map(lambda part: part * 200)),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_states_a_run_was_in_they_can_be_told(states: list[State[Any]]) -> None:
    run = flow_run(states[-1], run_count=9)
    for section in message_of(report_of(run, "pipeline", [], "", states)).sections:
        assert 0 < len(section) <= 3000
        assert "<!" not in section


@quick
@given(
    st.dictionaries(st.sampled_from(["stack", "repository", "image", "reason"]), values),
    st.one_of(values, st.dictionaries(st.sampled_from([*COMMIT, "color"]), values)),
    text,
)
def test_whatever_is_in_a_run_it_can_be_told(
    parameters: dict[str, Any], commit: Any, message: str
) -> None:
    run = flow_run(
        state(StateType.FAILED, message=message), parameters=parameters | {"commit": commit}
    )
    for section in message_of(report_of(run, "redeploy", [], "")).sections:
        assert 0 < len(section) <= 3000
        assert "<!" not in section
