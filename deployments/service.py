"""The service: receiver, dispatcher, reconciler, superseder and announcer in one process."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import uvicorn
from prefect.client.orchestration import PrefectClient
from starlette.applications import Starlette

from blocks.channel import Channel, Pace, SlackChannel
from blocks.loading import load_all, load_if_there
from blocks.prefect_api import prefect_api
from blocks.repository import GitHubRepository
from deployments.announcer import Announcer
from deployments.console import show_log
from deployments.dispatcher import Dispatcher
from deployments.inbox import Inbox
from deployments.receiver import KnownRepositories, Repositories, make_receiver
from deployments.reconciler import Reconciler
from deployments.settings import SystemSettings
from deployments.superseding import Superseder
from deployments.watchdog import Watchdog

CHANNEL = "integration"
"""Name of the channel's block."""
_FRESH = 30.0
"""How long the channel may be an old one where the event of its change is lost"""


async def _read_repositories() -> Repositories:
    async with prefect_api() as client:
        return await load_all(client, GitHubRepository)


class _KnownChannel:
    """The channel, as its block says; Prefect is asked for it again after a block has changed."""

    def __init__(self, settings: SystemSettings) -> None:
        self._file, self._pace = settings.channel_file, Pace()
        self._channel: Channel | None = None
        self._fresh_until = 0.0

    async def __call__(self, client: PrefectClient) -> Channel:
        now = asyncio.get_running_loop().time()
        if self._channel is None or now >= self._fresh_until:
            self._fresh_until = now + _FRESH  # before it is read: it may change meanwhile
            try:
                block = await load_if_there(client, SlackChannel, CHANNEL) or SlackChannel()
            except BaseException:
                self.forget()
                raise
            self._channel = block.open(self._file, self._pace)
        return self._channel

    def forget(self) -> None:
        """A block has changed, perhaps this one."""
        self._fresh_until = 0.0


def make_service(settings: SystemSettings) -> Starlette:
    """The ASGI app, with the loops that start runs and tell of them as long as it lives."""
    inbox = Inbox(settings.inbox)
    news = asyncio.Queue[UUID]()
    repositories = KnownRepositories(_read_repositories)

    look, new_run = asyncio.Event(), asyncio.Event()
    dispatcher = Dispatcher(inbox, news, look=look, new_run=new_run)
    reconciler = Reconciler(
        inbox,
        repositories,
        dispatcher.wake,
        look,
        seconds=settings.reconcile_seconds,
        keep_days=settings.keep_days,
    )
    superseder = Superseder(inbox, new_run, repositories)
    channel = _KnownChannel(settings)

    def block_changed() -> None:
        channel.forget()
        repositories.forget()

    announcer = Announcer(inbox, news, channel, repositories, block_changed=block_changed)
    parts = [
        repositories.run,
        dispatcher.run,
        reconciler.run,
        superseder.run,
        announcer.run,
        Watchdog().run,
    ]

    @asynccontextmanager
    async def loops(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(run()) for run in parts]
        for task in tasks:
            task.add_done_callback(_must_not_end)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = make_receiver(inbox, repositories, dispatcher.wake)
    app.router.lifespan_context = loops
    return app


def _must_not_end(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception():
        # Without its loops the service would take deliveries and start nothing.
        logging.getLogger("samebits").critical("a loop ended", exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


def serve(settings: SystemSettings) -> None:
    """Run the service until a signal."""
    show_log()
    uvicorn.run(
        make_service(settings),
        host=settings.receiver_host,
        port=settings.receiver_port,
        log_level="warning",
        access_log=False,
    )
