"""Runs that do not get on."""

from collections.abc import Sequence
from datetime import datetime

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from blocks.prefect_api import read_unfinished_runs
from blocks.run_search import read_runs_to_end
from deployments.checks.checking import server_now
from domain.health import Finding, age, is_queued_for_long, is_stuck, ok, warning
from domain.names import one_line

RUNS = "runs"
_MOST_NAMED = 3


async def check_runs(client: PrefectClient) -> list[Finding]:
    """Whether each run that has not ended gets on."""
    going = await read_unfinished_runs(client)
    waiting = [run for run in await read_runs_to_end(client) if _type(run) == "SCHEDULED"]
    return judge_runs(going, waiting, await server_now(client))


def judge_runs(
    going: Sequence[FlowRun], waiting: Sequence[FlowRun], now: datetime
) -> list[Finding]:
    """How the runs stand: those that a process has, and those that wait for one."""
    stuck = [
        f"{one_line(run.name, 60)} is {_type(run)} for {age(run.state.timestamp, now)}"
        for run in going
        if run.state and is_stuck(_type(run), run.state.timestamp, now)
    ]
    late = [run for run in waiting if is_queued_for_long(_wanted(run, now), now)]
    found = []
    if stuck:
        more = f" and {len(stuck) - _MOST_NAMED} more" if len(stuck) > _MOST_NAMED else ""
        found.append(
            warning(
                RUNS,
                f"{'; '.join(stuck[:_MOST_NAMED])}{more}.",
                "See its log in the UI. If nothing goes on there, cancel it, then retry it.",
            )
        )
    if late:
        longest = min(_wanted(run, now) for run in late)
        found.append(
            warning(
                RUNS,
                f"{len(late)} runs wait for a worker, for {age(longest, now)} at most.",
                "If the host can take it, raise SAMEBITS_RUNS_AT_ONCE and start the worker anew; "
                "see also whether the work pool has a concurrency limit in the UI.",
            )
        )
    return found or [ok(RUNS, f"{len(going)} go on, {len(waiting)} wait")]


def _type(run: FlowRun) -> str:
    return run.state.type.value if run.state else ""


def _wanted(run: FlowRun, now: datetime) -> datetime:
    return run.next_scheduled_start_time or run.expected_start_time or now
