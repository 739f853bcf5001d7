"""Prefect's own events say that there is a run to start: nobody has to ask again and again."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.events.schemas.events import Event, ResourceSpecification

_AGAIN_SECONDS = 2.0
_SCHEDULED = EventFilter(
    event=EventNameFilter(prefix=["prefect.flow-run."]),
    resource=EventResourceFilter(
        labels=ResourceSpecification({"prefect.state-type": ["SCHEDULED"]})
    ),
)
log = logging.getLogger("samebits.worker")


async def hear_of_scheduled_runs(wake: Callable[[UUID | None], None]) -> None:
    """Call `wake` for each run that is scheduled, with its deployment if it has one, for ever.

    A lost event costs time only.
    """
    while True:
        try:
            async with get_events_subscriber(filter=_SCHEDULED) as events:
                wake(None)
                async for event in events:
                    wake(_deployment_of(event))
        except Exception as error:  # noqa: BLE001 - whatever its client raises, it is tried again
            log.info("Prefect's events are away: %s", type(error).__name__)
        await asyncio.sleep(_AGAIN_SECONDS)


def _deployment_of(event: Event) -> UUID | None:
    prefix = "prefect.deployment."
    for related in event.related:
        if related.id.startswith(prefix):
            with suppress(ValueError):
                return UUID(related.id.removeprefix(prefix))
    return None
