"""From what Prefect knows of a run to what the channel is told of it."""

import re

from prefect.client.schemas.objects import FlowRun, StateType, TaskRun

from blocks.prefect_api import run_url, step_name
from domain.commit import Commit
from domain.message import STEPS, RunReport, Status, StepReport
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
_QUIET = (Status.SCHEDULED, Status.RUNNING, Status.PASSED)


def report_of(run: FlowRun, kind: str, steps: list[TaskRun], commit_url: str) -> RunReport:
    """The report of a run; `steps` are its task runs in the order in which they were made."""
    status = _status(run)
    return RunReport(
        run_id=str(run.id),
        kind=kind,
        commit=_commit(run),
        stack=one_line(str(run.parameters.get("stack") or "")) or None,
        status=status,
        attempt=max(run.run_count, 1),
        steps=_steps(steps, status),
        reason="" if status in _QUIET or not run.state else _reason(run.state.message or ""),
        run_url=run_url(run.id),
        commit_url=commit_url,
    )


def _status(run: FlowRun | TaskRun) -> Status:
    if run.state is None:
        return Status.SCHEDULED
    if run.state.name == "Cached":
        return Status.CACHED
    return _STATUSES.get(run.state.type, Status.RUNNING)


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


def _reason(message: str) -> str:
    return _PREFIX.sub("", message)


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
