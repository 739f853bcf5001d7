"""Turns on a stack, for tests of other things, and one that is refused."""

from blocks.contracts import Turn
from domain.errors import RunEnded, Superseded
from domain.image import Serving


def a_turn(owner: str = "a run") -> Turn:
    """The turn of a run that nothing keeps from deploying."""
    return Turn(owner, lambda _serving: None)


def of_a_cancelled_run() -> Turn:
    """The turn of a run that has ended by the time it is to deploy."""

    def asked(_: Serving | None) -> None:
        raise AssertionError("it was asked what may be replaced")

    def begun() -> None:
        raise RunEnded("The run is Cancelled meanwhile: nothing is deployed.")

    return Turn("a run that was cancelled", asked, begun)


class Refused:
    """Refuses a deploy, the first time or a later one; knows what was to give way."""

    def __init__(self, *, at: int = 1) -> None:
        self.seen: list[Serving | None] = []
        self._at = at

    @property
    def turn(self) -> Turn:
        return Turn("a run that gives way", self._admit)

    def _admit(self, serving: Serving | None) -> None:
        self.seen.append(serving)
        if len(self.seen) >= self._at:
            raise Superseded("It gave way to another.", by="f" * 40)
