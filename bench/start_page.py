"""What the start page of Prefect's UI asks of its API, as seen in a browser (Prefect 3.8.8)."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from deployments.environment import api_password
from deployments.settings import SystemSettings

Body = dict[str, Any]
_ENDED = ["COMPLETED", "FAILED", "CRASHED"]
_GROUPS = [
    ["FAILED", "CRASHED"],
    ["RUNNING", "PENDING", "CANCELLING"],
    ["COMPLETED"],
    ["SCHEDULED", "PAUSED"],
    ["CANCELLED"],
]


def start_page(settings: SystemSettings) -> float:
    """How many seconds the API takes for all of it, one after the other."""
    user, _, password = api_password(settings).partition(":")
    with httpx.Client(
        base_url=settings.api_url, auth=(user, password), trust_env=False, timeout=120
    ) as client:
        asked = _asked()
        began = time.monotonic()
        for path, body in asked:
            client.post(path, json=body).raise_for_status()
        return time.monotonic() - began


def _asked() -> list[tuple[str, Body]]:
    now = datetime.now(UTC)
    day: Body = {
        "before_": now.isoformat(),
        "after_": (now - timedelta(days=1)).isoformat(),
    }

    def runs(types: list[str] | None = None) -> Body:
        state = {"state": {"type": {"any_": types}}} if types else {}
        return {"flow_runs": {"expected_start_time": day, **state}}

    def steps(types: list[str]) -> Body:
        return {"task_runs": {"start_time": day, "state": {"type": {"any_": types}}}}

    history = {
        "history_start": day["after_"],
        "history_end": day["before_"],
        "history_interval_seconds": 4320,
        "flow_runs": {},
        "task_runs": {"start_time": day},
    }
    ever: list[list[str]] = [_ENDED, ["COMPLETED"]]
    return [
        ("/flow_runs/count", {}),
        ("/flow_runs/filter", {}),
        ("/flow_runs/count", runs()),
        *(("/flow_runs/count", runs(types)) for types in _GROUPS),
        ("/flows/paginate", runs(["FAILED", "CRASHED"]) | {"sort": "UPDATED_DESC"}),
        *(("/task_runs/count", steps(types)) for types in (*ever, ["FAILED", "CRASHED"])),
        ("/task_runs/count", steps(["RUNNING"])),
        ("/task_runs/history", history),
        ("/work_pools/filter", {}),
        *(("/flow_runs/count", runs(types)) for types in ever),
        ("/flow_runs/lateness", runs()),
        *(("/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": t}}}}) for t in ever),
        ("/flow_runs/filter", runs() | {"sort": "START_TIME_DESC", "limit": 58}),
        ("/flow_runs/filter", runs() | {"sort": "START_TIME_DESC", "limit": 22}),
    ]
