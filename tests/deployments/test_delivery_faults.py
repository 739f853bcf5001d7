"""Deliveries that come doubled, in masses, while a part is away, or from nobody."""

import asyncio
import random
import time
from collections.abc import Iterator

import httpx
import pytest

from deployments.settings import SystemSettings
from tests.arrivals import Arrivals, clients, running_arrivals, sha_of
from tests.bad_requests import BadRequest, BadRequests
from tests.conftest import Origin, free_port
from tests.fault_plugin import fault
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """The repository that is looked at."""
    return Origin(tmp_path_factory.mktemp("pushed"))


@pytest.fixture(scope="module")
def arrivals(pushed: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrivals]:
    """A service and a Prefect server for all tests of this file, each with commits of its own."""
    settings = SystemSettings(
        home=tmp_path_factory.mktemp("arrivals"),
        prefect_port=free_port(),
        receiver_port=free_port(),
        reconcile_seconds=3600,  # only its look at the start
    )
    with running_arrivals(settings, pushed.bare) as running:
        yield running


def commits(of: str, count: int) -> list[str]:
    return [sha_of(f"{of} {number}") for number in range(count)]


@fault("each of 200 deliveries sent five times, shuffled, concurrently", trials=1, quick=1)
@pytest.mark.timeout(600)
def test_a_delivery_that_comes_often_and_under_another_id_is_one_run(
    arrivals: Arrivals, full: bool, chance: random.Random
) -> None:
    shas = commits("five times", 200 if full else 8)
    requests = [(sha, f"id {sha}") for sha in shas for _ in range(5)]
    requests += [(sha, f"another id {sha}") for sha in shas]
    chance.shuffle(requests)

    async def send() -> list[int]:
        async with clients() as client:
            return await asyncio.gather(
                *(
                    arrivals.deliver(client, arrivals.push(f"five-{sha[:8]}", sha), delivery)
                    for sha, delivery in requests
                )
            )

    assert set(asyncio.run(send())) == {202}
    arrivals.wait_for_dispatch(300)
    runs = arrivals.runs()
    assert [runs[sha] for sha in shas] == [1] * len(shas)


@fault("1,500 signed deliveries in 10 s", trials=1, quick=1)
@pytest.mark.timeout(600)
def test_none_of_many_deliveries_is_lost_and_each_is_answered_soon(
    arrivals: Arrivals, full: bool
) -> None:
    shas, seconds = commits("many", 1500 if full else 30), 10 if full else 1
    took: list[float] = []

    async def send(client: httpx.AsyncClient, number: int, sha: str) -> int:
        await asyncio.sleep(number / len(shas) * seconds)
        began = time.monotonic()
        status = await arrivals.deliver(client, arrivals.push(f"many-{number}", sha))
        took.append(time.monotonic() - began)
        return status

    async def send_all() -> list[int]:
        async with clients() as client:
            return await asyncio.gather(*(send(client, n, sha) for n, sha in enumerate(shas)))

    began = time.monotonic()
    assert set(asyncio.run(send_all())) == {202}
    whole = time.monotonic() - began
    p99 = sorted(took)[int(len(took) * 0.99)]
    print(
        f"{len(shas)} deliveries in {whole:.1f} s; answers p99 {p99:.3f} s, max {max(took):.3f} s"
    )
    if full:
        assert whole < seconds + 1
        assert p99 < 1
    arrivals.wait_for_dispatch(400)
    runs = arrivals.runs()
    assert [runs[sha] for sha in shas] == [1] * len(shas)


@fault("Prefect server SIGKILLed during dispatch of 100", trials=3, quick=1)
@pytest.mark.timeout(600)
def test_a_prefect_server_that_is_killed_loses_and_doubles_no_run(
    arrivals: Arrivals, full: bool, trial: int, chance: random.Random
) -> None:
    shas = commits(f"killed {trial}", 100 if full else 8)

    async def send() -> list[int]:
        async with clients() as client:
            return await asyncio.gather(
                *(arrivals.deliver(client, arrivals.push(f"killed-{sha[:8]}", sha)) for sha in shas)
            )

    assert set(asyncio.run(send())) == {202}
    left = chance.randrange(len(shas) // 4, len(shas) * 3 // 4)
    wait_until(lambda: arrivals.inbox.count_waiting() <= left, 120)
    arrivals.kill("server")
    assert arrivals.inbox.count_waiting() > 0
    arrivals.start_server()
    arrivals.wait_for_dispatch(300)
    runs = arrivals.runs()
    assert [runs[sha] for sha in shas] == [1] * len(shas)


@fault("receiver down through 20 pushes", trials=1, quick=1)
@pytest.mark.timeout(600)
def test_what_was_pushed_while_the_receiver_was_away_has_its_run_after_one_look(
    arrivals: Arrivals, pushed: Origin
) -> None:
    arrivals.kill("service")
    heads: dict[str, str] = {}
    for number in range(19):
        branch = f"away-{number % 12}"
        heads[branch] = pushed.push({"number": str(number)}, branch, f"Push {number}")
    forced = heads["away-1"]
    pushed.push_ref(forced, "away-2", force=True)
    heads["away-2"] = forced
    # The service looks when it starts, and then not for an hour.
    arrivals.start_service()

    def missing() -> set[str]:
        return set(heads.values()) - set(arrivals.runs())

    wait_until(lambda: not missing(), 120, "not every head has its run")
    arrivals.wait_for_dispatch(120)
    runs = arrivals.runs(by_branch=True)
    assert {name: runs[f"{name} {sha}"] for name, sha in heads.items()} == dict.fromkeys(heads, 1)


@fault("10,000 mutated, unsigned or oversized requests", trials=1, quick=1)
@pytest.mark.timeout(900)
def test_what_nobody_signed_or_nobody_can_read_starts_nothing(
    arrivals: Arrivals, full: bool, chance: random.Random
) -> None:
    made = BadRequests(chance, str(arrivals.bare)).make(*((50, 10_000) if full else (1, 60)))
    before = arrivals.runs()

    async def send_all() -> list[tuple[str, int]]:
        at_once = asyncio.Semaphore(20)
        async with clients() as client:
            return await asyncio.gather(*(_send(arrivals, client, at_once, r) for r in made))

    answers = asyncio.run(send_all())
    assert [answer for answer in answers if answer[1] >= 500] == []
    taken = {kind for kind, status in answers if status == 202}
    assert taken <= {"junk", "headers"}
    assert arrivals.inbox.count_waiting() == 0
    assert arrivals.runs() == before
    _serves_on(arrivals, f"after the bad ones {chance.random()}")


async def _send(
    arrivals: Arrivals, client: httpx.AsyncClient, at_once: asyncio.Semaphore, bad: BadRequest
) -> tuple[str, int]:
    """Send a bad request; returns its kind and the status, 0 where the connection was ended."""
    async with at_once:
        if bad.kind == "no HTTP":
            return bad.kind, await arrivals.send_raw(bad.body)
        try:
            answer = await client.post(arrivals.url, content=bad.content(), headers=bad.headers)
        except httpx.TransportError:
            # It does not wait for the end of what is too large.
            assert bad.kind == "oversized"
            return bad.kind, 0
        return bad.kind, answer.status_code


def _serves_on(arrivals: Arrivals, name: str) -> None:
    sha = sha_of(name)

    async def send() -> int:
        async with clients() as client:
            return await arrivals.deliver(client, arrivals.push(f"good-{sha[:8]}", sha))

    assert asyncio.run(send()) == 202
    arrivals.wait_for_dispatch(60)
    assert arrivals.runs()[sha] == 1
