"""Turns on a stack, for tests of other things."""

from blocks.contracts import Turn


def a_turn(owner: str = "a run") -> Turn:
    """The turn of a run that nothing keeps from deploying."""
    return Turn(owner, lambda _serving: None)
