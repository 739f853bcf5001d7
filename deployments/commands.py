"""What the command line does besides starting the system."""

import asyncio
from collections.abc import Callable

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from blocks.prefect_api import create_redeploy_run, prefect_api, run_url
from blocks.prune_runs import create_prune_run, what_was_pruned
from deployments.inbox import Inbox
from deployments.looking import is_from_a_look
from deployments.settings import SystemSettings
from domain.names import checked_name

_POLL_SECONDS = 0.5
Say = Callable[[str], None]


def say_deliveries(settings: SystemSettings, count: int, say: Say) -> None:
    """The last deliveries and what became of each, newest first."""
    deliveries = Inbox(settings.inbox).latest(count)
    for delivery in deliveries:
        what = f"{delivery.repository or '-'} {delivery.branch or '-'} {delivery.sha[:8] or '-'}"
        became = delivery.reason or delivery.run_id or "no run yet"
        # What the reconciler found has no ID of GitHub's.
        found = is_from_a_look(delivery)
        named, event = ("-", "look") if found else (delivery.id, delivery.event)
        say(f"{named:36}  {event:8} {what:50} {delivery.state:10} {became}")
    if not deliveries:
        say(f"No delivery has come to {settings.inbox} yet.")


async def redeploy(repository: str, stack: str, image: str, reason: str, say: Say) -> bool:
    """Start a redeploy and wait for its end; True if it passed."""
    async with prefect_api() as client:
        run = await create_redeploy_run(client, checked_name(repository), stack, image, reason)
        say(run_url(run.id))
        run = await _ended(client, run)
    passed = bool(run.state and run.state.is_completed())
    say("Passed." if passed else f"{run.state_name}: {run.state.message if run.state else ''}")
    return passed


async def prune(say: Say) -> bool:
    """Start a run of `prune`, wait for its end, and show what it removed; True if it passed."""
    async with prefect_api() as client:
        run = await create_prune_run(client)
        say(run_url(run.id))
        run = await _ended(client, run)
        passed = bool(run.state and run.state.is_completed())
        if passed:
            say(await what_was_pruned(client, run.id))
        else:
            say(f"{run.state_name}: {run.state.message if run.state else ''}")
    return passed


async def _ended(client: PrefectClient, run: FlowRun) -> FlowRun:
    while not (run.state and run.state.is_final()):
        await asyncio.sleep(_POLL_SECONDS)
        run = await client.read_flow_run(run.id)
    return run
