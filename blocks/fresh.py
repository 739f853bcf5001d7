"""What a process has done ahead of the step that needs it: for some seconds it counts as done."""

import time

_SECONDS = 10.0


class Fresh:
    """The names of what was done ahead, each to be taken once."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def note(self, name: str) -> None:
        """It was done just now."""
        self._until[name] = time.monotonic() + _SECONDS

    def take(self, name: str) -> bool:
        """Whether it was done just now, and nobody has relied on it yet."""
        return time.monotonic() < self._until.pop(name, 0.0)
