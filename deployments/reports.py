"""From what Prefect knows of a run to what the channel is told of it."""

import re
from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun

from blocks.prefect_api import PRUNE, run_url, step_name
from blocks.prefect_run import attempt_of
from domain.commit import Commit
from domain.marks import RESTARTED, SUPERSEDED, gave_way_to, way_given
from domain.message import STEPS, Ending, RunReport, Status, StepReport
from domain.names import one_line

_PREFIX = re.compile(r"\A(?:Flow|Task) run encountered an exception:? *(?:\w+: )?")
_STATUSES = {
    StateType.SCHEDULED: Status.SCHEDULED,
    StateType.COMPLETED: Status.PASSED,
    StateType.FAILED: Status.FAILED,
    StateType.CANCELLED: Status.CANCELLED,
    StateType.CRASHED: Status.CRASHED,
}
_MOST_TEXT = 240
"""As long as a branch name may be; Slack refuses a message that is too long."""
_NO_COMMIT = Commit.model_construct(
    None, **dict.fromkeys(Commit.model_fields, "") | {"repository": PRUNE}
)
_QUIET = (Status.SCHEDULED, Status.RUNNING, Status.PASSED)


def report_of(
    run: FlowRun,
    kind: str,
    steps: list[TaskRun],
    commit_url: str,
    states: Sequence[State[Any]] = (),
) -> RunReport:
    """The report of a run; `steps` are its task runs in the order in which they were made, and
    `states` all that it was in, oldest first.
    """
    by = _superseded_by(run)
    status = Status.SUPERSEDED if by else _status(run)
    return RunReport(
        run_id=str(run.id),
        kind=kind,
        commit=_commit(run) if kind != PRUNE else _NO_COMMIT,
        stack=one_line(str(run.parameters.get("stack") or "")) or None,
        status=status,
        attempt=attempt_of(run),
        steps=_steps(steps, status),
        reason=_reason(run, status, by),
        earlier=_earlier(states),
        run_url=run_url(run.id),
        commit_url=commit_url,
    )


def _status(run: FlowRun | TaskRun) -> Status:
    return _status_of(run.state) if run.state else Status.SCHEDULED


def _status_of(state: State[Any]) -> Status:
    if state.name == "Cached":
        return Status.CACHED
    if state.type is StateType.CANCELLED and state.name == SUPERSEDED:
        return Status.SUPERSEDED
    return _STATUSES.get(state.type, Status.RUNNING)


def _superseded_by(run: FlowRun) -> str:
    """The SHA that a cancelled run gave way to, as far as its labels say; empty for none."""
    if not run.state or run.state.type is not StateType.CANCELLED:
        return ""
    return gave_way_to(run.labels, run.run_count)


def _reason(run: FlowRun, status: Status, by: str) -> str:
    """Why a run is not well, and why one waits that was started again by itself."""
    said = _said(run.state) if run.state else ""
    if run.state and run.state.name == RESTARTED:
        return said
    if status in _QUIET:
        return ""
    if by and run.state and run.state.name != SUPERSEDED:
        return way_given(by)  # Prefect's own words say less
    return said


def _earlier(states: Sequence[State[Any]]) -> tuple[Ending, ...]:
    """How those tries ended after which something more came."""
    endings, attempt, last = list[Ending](), 0, None
    for state in states:
        if state.is_final():
            last = state
            continue
        if last:
            endings.append(_ending(attempt, _status_of(last), last))
            last = None
        if state.name == RESTARTED:
            endings.append(_ending(attempt, "cut off", state))
        attempt += state.is_running()
    return tuple(endings)


def _ending(attempt: int, how: str, state: State[Any]) -> Ending:
    return Ending(attempt=max(attempt, 1), how=how, reason=one_line(_said(state), _MOST_TEXT))


def _steps(task_runs: list[TaskRun], whole: Status) -> tuple[StepReport, ...]:
    """The last try of each step; what still runs when the run has ended was cut off with it."""
    last = {step_name(task_run): task_run for task_run in task_runs}
    reports = []
    for name in STEPS:
        if name not in last:
            continue
        status = _status(last[name]) if last[name].state else Status.RUNNING
        seconds: float | None = last[name].total_run_time.total_seconds()
        if whole.ended and (not status.ended or status is Status.CRASHED):
            status, seconds = whole, None
        note = _note(last[name]) if status is Status.PASSED else ""
        reports.append(StepReport(name=name, status=status, seconds=seconds, note=note))
    return tuple(reports)


def _note(step: TaskRun) -> str:
    """What a step that passed says of itself, e.g. what the registry's scan has found."""
    return one_line((step.state.message if step.state else "") or "", _MOST_TEXT)


def _said(state: State[Any]) -> str:
    """What a state says of itself, without Prefect's own words."""
    return _PREFIX.sub("", state.message or "")


def _commit(run: FlowRun) -> Commit:
    """The commit that a run is for; what a person typed wrong is shown as far as it goes."""
    given = run.parameters.get("commit")
    values = given if isinstance(given, dict) else {}
    text = {name: str(values.get(name) or "") for name in Commit.model_fields}
    if not given:
        image = str(run.parameters.get("image", ""))
        text |= {
            "repository": str(run.parameters.get("repository", "")),
            "branch": "redeploy",
            "sha": image.removeprefix("sha256:"),
            "subject": str(run.parameters.get("reason", "")),
        }
    short = {name: one_line(value, _MOST_TEXT) for name, value in text.items()}
    return Commit.model_construct(None, **short)
