"""The work pool that `up` makes, also where an earlier version has made one of another type."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from blocks.prefect_api import POOL
from deployments.provisioning import _work_pool
from deployments.warm.worker import WarmWorker
from domain.errors import StartFailed


class Pools:
    """A server with at most one work pool."""

    def __init__(self, kind: str = "", waiting: int = 0) -> None:
        self.kind, self.template = kind, dict[str, Any]()
        self.limit: int | None = 4 if kind else None
        self._waiting = waiting

    async def read_work_pool(self, name: str) -> Any:
        assert name == POOL
        if not self.kind:
            raise ObjectNotFound(Exception("404"))
        return SimpleNamespace(type=self.kind)

    async def get_scheduled_flow_runs_for_work_pool(
        self, _: str, *, scheduled_before: datetime
    ) -> list[int]:
        assert scheduled_before <= datetime.now(UTC)
        return list(range(self._waiting))

    async def delete_work_pool(self, _: str) -> None:
        self.kind, self.limit = "", None

    async def create_work_pool(self, made: WorkPoolCreate) -> None:
        self.kind, self.template, self.limit = (
            made.type,
            made.base_job_template,
            made.concurrency_limit,
        )

    async def update_work_pool(self, _: str, new: WorkPoolUpdate) -> None:
        given = new.model_dump(exclude_unset=True)
        self.template = given.pop("base_job_template")
        self.limit = given.get("concurrency_limit", self.limit)


async def make(pools: Pools) -> None:
    client: Any = pools
    await _work_pool(client)


@pytest.mark.parametrize("kind", ["", "process", WarmWorker.type])
async def test_there_is_a_warm_pool_whatever_was_there_and_nobody_chooses_what_runs_in_it(
    kind: str,
) -> None:
    pools = Pools(kind)
    await make(pools)
    assert pools.kind == WarmWorker.type
    assert pools.template["variables"]["properties"] == {}
    assert pools.template["variables"]["additionalProperties"] is False


async def test_a_limit_that_a_person_has_set_in_the_ui_stays() -> None:
    pools = Pools(WarmWorker.type)
    await make(pools)
    assert pools.limit == 4


async def test_a_pool_of_an_earlier_type_in_which_runs_wait_is_not_removed() -> None:
    pools = Pools("process", waiting=3)
    with pytest.raises(StartFailed, match="3 runs wait in it"):
        await make(pools)
    assert pools.kind == "process"
