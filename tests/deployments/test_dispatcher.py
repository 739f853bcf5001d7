"""The dispatcher against an API that keeps runs, and refuses some."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from deployments.dispatcher import Dispatcher
from deployments.inbox import Delivery, Inbox
from domain.errors import ServerUnavailable


@dataclass
class Api:
    """As much of Prefect's client as the dispatcher asks: runs are unique by their key."""

    runs: dict[str, UUID] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    deployment = uuid4()

    async def read_deployments(self, **_: Any) -> list[Any]:
        parameters = {"commit": {"repository": "hello", "branch": "*"}}
        return [SimpleNamespace(id=self.deployment, parameters=parameters)]

    async def create_flow_run_from_deployment(
        self, _: UUID, *, idempotency_key: str, parameters: dict[str, Any], **__: Any
    ) -> Any:
        if fault := self.faults.get(parameters["commit"]["branch"]):
            raise fault
        return SimpleNamespace(id=self.runs.setdefault(idempotency_key, uuid4()))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        yield self


def refusal(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://api")
    answer = httpx.Response(status, text="no such parameter", request=request)
    return PrefectHTTPStatusError("refused", request=request, response=answer)


def push(number: int, branch: str = "master", sha: str = "1" * 40) -> Delivery:
    return Delivery(str(number), "push", "hello", branch, sha)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox.sqlite")


def dispatcher(inbox: Inbox, api: Api) -> Dispatcher:
    return Dispatcher(inbox, asyncio.Queue(), api.open)


def states(inbox: Inbox) -> dict[str, str]:
    return {delivery.id: delivery.state for delivery in inbox.latest()}


async def test_each_delivery_gets_its_run(inbox: Inbox, api: Api) -> None:
    for number, branch in enumerate(["master", "feature/x"]):
        inbox.store(push(number, branch))
    await dispatcher(inbox, api).dispatch()
    assert states(inbox) == {"0": "dispatched", "1": "dispatched"}
    assert len(api.runs) == 2


async def test_the_same_commit_in_two_deliveries_is_one_run_and_the_second_says_so(
    inbox: Inbox, api: Api
) -> None:
    for number in (1, 2):
        inbox.store(push(number))
        await dispatcher(inbox, api).dispatch()
    assert len(api.runs) == 1
    second, first = inbox.latest()
    assert first.reason == ""
    assert "has its run" in second.reason
    assert first.run_id == second.run_id


@pytest.mark.parametrize("fault", [refusal(422), refusal(409), ObjectNotFound(ValueError())])
async def test_a_delivery_that_is_refused_holds_up_no_other_and_can_be_redelivered(
    inbox: Inbox, api: Api, fault: Exception
) -> None:
    api.faults["bad"] = fault
    inbox.store(push(1, "bad"))
    inbox.store(push(2, "good"))
    await dispatcher(inbox, api).dispatch()
    assert states(inbox) == {"1": "ignored", "2": "dispatched"}
    assert "make apply" in inbox.get("1").reason
    del api.faults["bad"]
    assert inbox.store(push(1, "bad"))
    await dispatcher(inbox, api).dispatch()
    assert inbox.get("1").state == "dispatched"


async def test_what_the_api_cannot_take_now_stays(inbox: Inbox, api: Api) -> None:
    api.faults["master"] = refusal(503)
    inbox.store(push(1))
    with pytest.raises((PrefectHTTPStatusError, ServerUnavailable)):
        await dispatcher(inbox, api).dispatch()
    assert states(inbox) == {"1": "waiting"}


async def test_a_repository_without_a_deployment_is_ignored_with_the_reason(
    inbox: Inbox, api: Api
) -> None:
    inbox.store(Delivery("1", "push", "unknown", "master", "1" * 40))
    await dispatcher(inbox, api).dispatch()
    assert inbox.get("1").state == "ignored"
    assert "no deployment for this branch" in inbox.get("1").reason


def test_a_delivery_that_has_its_run_is_not_started_again_by_a_redelivery(inbox: Inbox) -> None:
    inbox.store(push(1))
    inbox.settle("1", "dispatched", run_id="a run")
    assert not inbox.store(push(1))
    assert inbox.get("1").state == "dispatched"
