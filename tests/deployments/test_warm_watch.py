"""What watches over the runs of a worker: one for all, and another where it has lost its ears."""

from types import SimpleNamespace
from typing import Any, Self

import anyio
import anyio.lowlevel
import pytest

from deployments.warm import watch as watch_module
from deployments.warm.watch import Watch


class Context:
    """Prefect's context, of which one can see whether it is open, and whether it hears."""

    made: list["Context"]

    def __init__(self) -> None:
        self.open, self.deaf = False, False
        self._observer = SimpleNamespace(_consumer_task=SimpleNamespace(done=lambda: self.deaf))
        self.made.append(self)

    async def __aenter__(self) -> Self:
        self.open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open = False


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[Context]:
    Context.made = []
    monkeypatch.setattr(watch_module, "FlowRunExecutorContext", Context)
    return Context.made


async def test_all_runs_have_one_and_it_ends_after_the_last_of_them(made: list[Any]) -> None:
    watch = Watch()
    async with anyio.create_task_group() as group:
        async with watch.over_runs(group) as one:
            async with watch.over_runs(group) as other:
                assert one is other
                watch.leave()
            assert one.open
        await anyio.lowlevel.checkpoint()
    assert [context.open for context in made] == [False]


async def test_one_that_lost_its_connection_is_kept_for_its_runs_and_new_runs_have_another(
    made: list[Any],
) -> None:
    watch = Watch()
    async with anyio.create_task_group() as group:
        async with watch.over_runs(group) as old:
            made[0].deaf = True
            async with watch.over_runs(group) as new:
                assert new is not old
                assert made[0].open
            assert [context.open for context in made] == [True, True]
        with anyio.fail_after(10):
            while made[0].open:  # noqa: ASYNC110 - nobody sets an event for what is waited for
                await anyio.sleep(0.005)
        assert made[1].open
        watch.leave()
    assert not made[1].open
