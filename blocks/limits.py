"""Prefect's concurrency limits: having something alone."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from blocks.fresh import Fresh
from blocks.prefect_api import ensure_limit, free_limit

_POLL_SECONDS = 1.0
_MOST_UNUSED = 3
_there = Fresh()
log = logging.getLogger("samebits.limits")


def _is_news(record: logging.LogRecord) -> bool:
    """Each try that finds the limit taken would be an error in the log."""
    return "ConcurrencySlotAcquisition" not in record.getMessage()


logging.getLogger("prefect._internal.concurrency").addFilter(_is_news)


def have_limit(name: str) -> None:
    """See to the limit of this name now; `alone` then need not, for some seconds."""
    ensure_limit(name)
    _there.note(name)


@contextmanager
def alone(
    name: str, lease_seconds: float, is_used: Callable[[], bool], waits: Callable[[], None]
) -> Iterator[None]:
    """Have the limit of this name alone, as soon as nobody else has it.

    `waits` is called once where it is taken. A holder that died has it until its lease ends. A
    server that is away for a while does not end what is held. Prefect writes a slot and its lease
    one after the other: a server that is killed in between leaves a slot that nobody has. So one is
    taken back that has been taken for several leases while it was not used, as `is_used` says.
    """
    if not _there.take(name):
        ensure_limit(name)
    with ExitStack() as held:
        unused, look_at = 0, time.monotonic() + lease_seconds
        tell: Callable[[], None] | None = waits
        while not _entered(held, name, lease_seconds):
            if tell:
                tell()
                tell = None
            time.sleep(_POLL_SECONDS)
            if time.monotonic() >= look_at:
                look_at += lease_seconds
                unused = 0 if is_used() else unused + 1
                if unused == _MOST_UNUSED:
                    log.warning("%s is taken, and nobody has it: it is freed", name)
                    free_limit(name)
                    unused = 0
        yield


def _entered(held: ExitStack, name: str, lease_seconds: float) -> bool:
    """Whether the limit was free; it is held then.

    Prefect could wait for it; but then a process that is told to end would wait on until it is
    killed, 30 s later, and might get the limit meanwhile.
    """
    try:
        held.enter_context(
            concurrency(
                name,
                strict=True,
                max_retries=0,
                lease_duration=lease_seconds,
                raise_on_lease_renewal_failure=False,
            )
        )
    except ConcurrencySlotAcquisitionError as error:
        if not _is_taken(error):
            raise
        return False
    return True


def _is_taken(error: ConcurrencySlotAcquisitionError) -> bool:
    cause = error.__cause__
    return (
        isinstance(cause, httpx.HTTPStatusError)
        and cause.response.status_code == httpx.codes.LOCKED
    )
