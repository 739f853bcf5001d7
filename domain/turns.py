"""Whose run is next: repositories take turns, so that no burst of one holds up another."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Run = TypeVar("Run")


def take_turns(
    waiting: Sequence[tuple[str, Run]], going: Iterable[str], last: Mapping[str, int]
) -> list[Run]:
    """The waiting runs in the order in which they are to start.

    Each is given with its repository, oldest first; `going` are the repositories of the runs that
    run now, and `last` says when each repository had a turn, as a number that grows.
    """
    left, busy, had = list(waiting), Counter(going), dict(last)
    now = max(had.values(), default=0)
    order: list[Run] = []
    while left:
        # Of what is equal, min takes the first: the oldest.
        place = min(range(len(left)), key=lambda n: (busy[left[n][0]], had.get(left[n][0], 0)))
        repository, run = left.pop(place)
        now += 1
        busy[repository], had[repository] = busy[repository] + 1, now
        order.append(run)
    return order
