"""What a process has done ahead of the step that needs it: for some seconds it counts as done."""

import time

_SECONDS = 10.0


class Fresh:
    """The names of what was done ahead, each to be taken once."""

    def __init__(self) -> None:
        self._done: dict[str, tuple[float, Exception | None]] = {}

    def note(self, name: str, error: Exception | None = None) -> None:
        """It was done just now, or went wrong."""
        self._done[name] = (time.monotonic() + _SECONDS, error)

    def take(self, name: str) -> bool:
        """Whether it was done just now, and nobody has relied on it yet; raises what went wrong."""
        until, error = self._done.pop(name, (0.0, None))
        if time.monotonic() >= until:
            return False
        if error:
            raise error
        return True
