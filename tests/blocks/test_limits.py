"""Having something alone by Prefect's limits, also where the server has lost who has it."""

import pytest

from blocks import fresh, limits
from blocks.fresh import Fresh
from blocks.limits import alone, have_limit


class Limit:
    """The limit at the server: taken until it is freed, by a holder who may be gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, used: int, lost: int = 1) -> None:
        self.tries = self.freed = self.told = 0
        self._lost = lost
        """So often somebody takes it and is lost"""
        self._used = used
        """So often it is said to be used"""
        self._taken = True
        self.ensured: list[str] = []
        monkeypatch.setattr(limits, "ensure_limit", self.ensured.append)
        monkeypatch.setattr(limits, "_there", Fresh())
        monkeypatch.setattr(limits, "free_limit", self._free)
        monkeypatch.setattr(limits, "_entered", self._enter)
        monkeypatch.setattr(limits, "_POLL_SECONDS", 0.001)

    def waits(self) -> None:
        self.told += 1

    def is_used(self) -> bool:
        self._used -= 1
        if self._used == 0:
            self._taken = False  # its holder is done
        return self._used >= 0

    def _free(self, _: str) -> None:
        self.freed += 1
        self._taken = self.freed < self._lost

    def _enter(self, *_: object) -> bool:
        self.tries += 1
        return not self._taken


@pytest.mark.timeout(20)
def test_a_slot_that_nobody_has_is_taken_back_after_several_leases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = Limit(monkeypatch, used=0)
    with alone("stack-it", 0.01, limit.is_used, limit.waits):
        assert limit.freed == 1
        assert limit.told == 1
        assert limit.tries > limits._MOST_UNUSED


@pytest.mark.timeout(20)
def test_a_slot_that_is_lost_once_more_is_taken_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit(monkeypatch, used=0, lost=2)
    with alone("stack-it", 0.01, limit.is_used, limit.waits):
        assert limit.freed == 2


@pytest.mark.timeout(20)
def test_a_slot_that_is_used_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit(monkeypatch, used=5)
    with alone("stack-it", 0.01, limit.is_used, limit.waits):
        assert limit.freed == 0


def test_a_limit_that_was_seen_to_a_moment_ago_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit(monkeypatch, used=1)
    limit.is_used()
    have_limit("stack-it")
    for _ in range(2):
        with alone("stack-it", 60, limit.is_used, limit.waits):
            pass
    assert limit.ensured == ["stack-it", "stack-it"]
    monkeypatch.setattr(fresh, "_SECONDS", 0.0)
    have_limit("stack-it")
    with alone("stack-it", 60, limit.is_used, limit.waits):
        pass
    assert limit.ensured == ["stack-it"] * 4
