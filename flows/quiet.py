"""A named error is a message for a person: its traceback is left out of the run's log."""

import logging

from domain.errors import SamebitsError

_FINISHED = "Finished in state Failed"
"""What the engine says last; it repeats the whole error, which stands above it already."""


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, SamebitsError):
        record.msg, record.args, record.exc_info = str(error), (), None
    elif isinstance(record.msg, str) and record.msg.startswith(_FINISHED):
        record.msg, record.args = _FINISHED, ()
    return True


def leave_out_tracebacks() -> None:
    """Have Prefect's engine log an error of ours as its text alone; any other stays whole."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
