"""The dispatcher against an API that keeps runs, and refuses some."""

import asyncio
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from deployments.dispatcher import Dispatcher
from deployments.inbox import HAS_RUN, Delivery, Inbox
from tests.deployments.deployed import DeployedPrefect as Api


def refusal(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://api")
    answer = httpx.Response(status, text="no such parameter", request=request)
    return PrefectHTTPStatusError("refused", request=request, response=answer)


def push(number: int, branch: str = "master", sha: str = "1" * 40) -> Delivery:
    return Delivery(str(number), "push", "hello", branch, sha)


@pytest.fixture
def api() -> Api:
    prefect = Api()
    prefect.leads("*")
    return prefect


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox.sqlite")


def dispatcher(inbox: Inbox, api: Api) -> Dispatcher:
    return Dispatcher(inbox, asyncio.Queue(), api.client)


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
    assert second.reason == HAS_RUN
    assert first.run_id == second.run_id


async def test_a_commit_that_has_its_run_already_lets_git_be_asked(inbox: Inbox, api: Api) -> None:
    look = asyncio.Event()
    dispatcher = Dispatcher(inbox, asyncio.Queue[UUID](), api.client, look)
    inbox.store(push(1))
    await dispatcher.dispatch()
    assert not look.is_set()
    inbox.store(push(2))
    await dispatcher.dispatch()
    assert look.is_set()


async def test_a_run_whose_answer_was_lost_is_the_deliverys_own(inbox: Inbox, api: Api) -> None:
    api.lost_answers.append(refusal(503))
    inbox.store(push(1))
    with pytest.raises(PrefectHTTPStatusError):
        await dispatcher(inbox, api).dispatch()
    await dispatcher(inbox, api).dispatch()
    assert len(api.runs) == 1
    assert (inbox.get("1").state, inbox.get("1").reason) == ("dispatched", "")


@pytest.mark.parametrize("fault", [refusal(422), refusal(409), ObjectNotFound(ValueError())])
async def test_a_delivery_that_is_refused_holds_up_no_other_and_can_be_redelivered(
    inbox: Inbox, api: Api, fault: Exception
) -> None:
    api.faults["bad"] = [fault]
    inbox.store(push(1, "bad"))
    inbox.store(push(2, "good"))
    await dispatcher(inbox, api).dispatch()
    assert states(inbox) == {"1": "ignored", "2": "dispatched"}
    assert "make apply" in inbox.get("1").reason
    assert inbox.store(push(1, "bad"))
    await dispatcher(inbox, api).dispatch()
    assert inbox.get("1").state == "dispatched"


@pytest.mark.parametrize("fault", [refusal(503), refusal(429), httpx.ReadTimeout("late")])
async def test_what_the_api_cannot_take_now_stays_and_keeps_its_place(
    inbox: Inbox, api: Api, fault: Exception
) -> None:
    api.faults["master"] = [fault]
    for number, sha in enumerate(["1" * 40, "2" * 40]):
        inbox.store(push(number, sha=sha))
    with pytest.raises(type(fault)):
        await dispatcher(inbox, api).dispatch()
    assert states(inbox) == {"0": "waiting", "1": "waiting"}
    await dispatcher(inbox, api).dispatch()
    assert api.commits() == [("master", "1" * 40), ("master", "2" * 40)]


async def test_a_delivery_that_cannot_be_a_run_holds_up_no_other(inbox: Inbox, api: Api) -> None:
    endless = "x" * 100
    api.leads("*", repository=endless)
    inbox.store(Delivery("1", "push", endless, "master", "1" * 40))
    inbox.store(push(2))
    await dispatcher(inbox, api).dispatch()
    assert states(inbox) == {"1": "ignored", "2": "dispatched"}
    assert "repository" in inbox.get("1").reason


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
