"""What Prefect's API tells of a run that has ended, worked out once.

The start page of the UI asks for three lists of up to 200 runs, and again every few seconds. For
each line of them Prefect 3.8 makes a model of 40 fields, and of that a dictionary: half of what a
list costs. A run that has ended stays as it is until something is written on it, which moves its
`updated`, or its queue or pool gets another name.
"""

import time
from typing import Any

from prefect.server.database import orm_models as tables
from prefect.server.schemas.responses import FlowRunResponse
from prefect.server.schemas.states import TERMINAL_STATES
from pydantic import PrivateAttr

_MOST = 400
_SETTLED_SECONDS = 2.0
"""Longer than what `updated` cannot tell apart, which is a millisecond on SQLite"""
_validate = FlowRunResponse.model_validate.__func__  # type: ignore[attr-defined]
MAY_CHANGE = (
    tables.FlowRun.id,
    tables.FlowRun.state_type,
    tables.FlowRun.updated,
    tables.FlowRun.state_id,
    tables.FlowRun.work_queue_id,
)
"""The columns that tell whether a run has ended, and is as it was; beside its queue and pool"""
_kept: dict[Any, tuple[Any, "Ended"]] = {}
"""By the run's ID, with what of it may change; the one that was asked for last stands last"""


class Ended(FlowRunResponse):
    """A run that has ended, as the API tells it."""

    _told: dict[str, Any] | None = PrivateAttr(None)

    def model_dump(self, **how: Any) -> dict[str, Any]:
        """As any model's; as JSON it is made once, and not to be changed."""
        if how != {"mode": "json"}:
            return super().model_dump(**how)
        if self._told is None:
            self._told = super().model_dump(**how)
        return self._told


def tell_of_ended_runs_once() -> None:
    """Have the API do so; before the first request."""
    FlowRunResponse.model_validate = classmethod(_tell)  # type: ignore[method-assign, assignment, arg-type]


def kept(run: tables.FlowRun) -> Ended | None:
    """What was told of a run that has not changed since; only `MAY_CHANGE` is looked at."""
    seen, told = _kept.pop(run.id, (None, None))
    if told is None or not _stays(run) or seen != _may_change(run):
        return None
    _kept[run.id] = seen, told
    return told


def _tell(
    cls: type[FlowRunResponse], obj: Any, *, from_attributes: bool | None = None, **how: Any
) -> FlowRunResponse:
    if isinstance(obj, Ended):
        return obj
    if cls is not FlowRunResponse or not from_attributes or not _stays(obj):
        return _validate(cls, obj, from_attributes=from_attributes, **how)  # type: ignore[no-any-return]
    told = kept(obj)
    if told is None:
        told = _validate(Ended, obj, from_attributes=True, **how)
        _kept[obj.id] = _may_change(obj), told
    while len(_kept) > _MOST:
        del _kept[next(iter(_kept))]
    return told


def _stays(run: Any) -> bool:
    return (
        isinstance(run, tables.FlowRun)
        and run.state_type in TERMINAL_STATES
        and run.updated.timestamp() < time.time() - _SETTLED_SECONDS
    )


def _may_change(run: tables.FlowRun) -> object:
    queue = run.work_queue
    pool = queue and queue.work_pool
    return (
        (run.updated, run.state_id),
        queue and (queue.id, queue.name),
        pool and (pool.id, pool.name),
    )
