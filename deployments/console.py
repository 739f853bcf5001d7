"""What a part of the system says on its terminal, or in its log."""

import logging


def show_log() -> None:
    """Show what our own loggers say."""
    # A handler of its own: Prefect has set up the root logger already, at WARNING.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    own = logging.getLogger("samebits")
    own.addHandler(handler)
    own.setLevel("INFO")
    own.propagate = False
