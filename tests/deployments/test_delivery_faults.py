"""Deliveries that come doubled, in masses, while a part is away, or from nobody."""

import asyncio
import random
import time
from collections.abc import Iterator

import httpx
import pytest

from deployments import example
from deployments.settings import SystemSettings
from tests.arrivals import Arrivals, clients, running_arrivals, sha_of
from tests.conftest import free_port
from tests.fault_plugin import fault
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def arrivals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrivals]:
    """A service and a Prefect server for all tests of this file, each with commits of its own."""
    home = tmp_path_factory.mktemp("arrivals")
    bare = home / "origin.git"
    example.git("init", "--quiet", "--bare", "--initial-branch=master", str(bare))
    settings = SystemSettings(
        home=home,
        prefect_port=free_port(),
        receiver_port=free_port(),
        reconcile_seconds=3600,  # only its look at the start
    )
    with running_arrivals(settings, bare) as running:
        yield running


def commits(of: str, count: int) -> list[str]:
    return [sha_of(f"{of} {number}") for number in range(count)]


@fault("each of 200 deliveries sent five times, shuffled, concurrently", trials=1, quick=1)
@pytest.mark.timeout(600)
def test_a_delivery_that_comes_often_and_under_another_id_is_one_run(
    arrivals: Arrivals, full: bool, chance: random.Random
) -> None:
    shas = commits("five times", 200 if full else 20)
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
    shas, seconds = commits("many", 1500 if full else 100), 10 if full else 1
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
    shas = commits(f"killed {trial}", 100 if full else 15)

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
