"""The lists of runs that Prefect's server is asked for, by the UI and by this project's service.

For each line Prefect 3.8 reads 40 columns, the state, and with a question of their own the queue
and the pool. Of a run that has ended, and of which has been told before, a few columns are read:
those that tell whether it is still so. The others are read whole, with their states.

Source: https://docs.sqlalchemy.org/en/20/orm/queryguide/columns.html#using-load-only-to-reduce-loaded-columns
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect.server.database import orm_models as tables
from prefect.server.models import flow_runs
from prefect.server.schemas.filters import FlowRunFilter, FlowRunFilterId
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Load, joinedload, lazyload, selectinload

from deployments.prefect_responses import MAY_CHANGE, Ended, kept

_read: Any = flow_runs.read_flow_runs
_state_is_read = ContextVar[Callable[[Any], Any] | None]("how the state is read", default=None)
"""For a list; None otherwise"""


def read_lists_together() -> None:
    """Have lists read so; before the first one is."""
    flow_runs.selectinload = InList  # type: ignore[attr-defined, assignment]
    flow_runs.read_flow_runs = _read_list


class InList:
    """Stands for `selectinload(…).selectinload(…)`, by which Prefect reads the pool of a run.

    In a list the same queue and pool would stand in each line; there they are read once, together.
    """

    alone = staticmethod(selectinload)
    """How it is done for a single run"""

    def __init__(self, relation: Any) -> None:
        self._relation = relation

    def selectinload(self, relation: Any) -> Any:
        """The option for a run's queue, and for that one's pool."""
        read = _state_is_read.get()
        if not read:
            return self.alone(self._relation).options(self.alone(relation))
        pool = selectinload(self._relation).joinedload(relation)
        return Load(tables.FlowRun).options(read(tables.FlowRun._state), pool)  # noqa: SLF001 - it has no other name


async def _read_list(session: AsyncSession, **asked: Any) -> Sequence[Any]:
    # Only what is told page by page goes to the API's answers and nowhere else. Who names the runs
    # asks for what is new.
    wanted = asked.get("flow_run_filter")
    if "offset" not in asked or asked.get("columns") or (wanted and wanted.id):
        return await _in_one_question(joinedload, session=session, **asked)
    lines = await _in_one_question(lazyload, session=session, columns=MAY_CHANGE, **asked)
    told: dict[UUID, Ended | None] = {run.id: kept(run) for run in lines}
    others = await _whole(session, [run for run, one in told.items() if not one])
    both = [told[run.id] or others.get(run.id) for run in lines]
    return [one for one in both if one]  # one that was deleted meanwhile is in neither


async def _whole(session: AsyncSession, runs: list[UUID]) -> dict[UUID, tables.FlowRun]:
    if not runs:
        return {}
    these = FlowRunFilter(id=FlowRunFilterId(any_=runs))
    read = await _in_one_question(joinedload, session=session, flow_run_filter=these)
    return {run.id: run for run in read}


async def _in_one_question(
    state_is_read: Callable[[Any], Any], **asked: Any
) -> Sequence[tables.FlowRun]:
    token = _state_is_read.set(state_is_read)
    try:
        return await _read(**asked)  # type: ignore[no-any-return]
    finally:
        _state_is_read.reset(token)
