"""The receiver: the HTTP door for GitHub's deliveries.

It checks the signature over the raw bytes before it parses, keeps the delivery durably, and only
then answers 202. Starting the run is the dispatcher's work.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from blocks.repository import GitHubRepository
from deployments.inbox import Delivery, Inbox
from domain.errors import BadPayload, BadSignature, BodyTooLarge, SamebitsError, ServerUnavailable
from domain.github import (
    MAX_BODY_BYTES,
    NoRun,
    headers_of,
    is_signed,
    named_repository,
    read_push,
    same_repository,
)
from domain.names import one_line

_STATUS: dict[type[SamebitsError], int] = {BadSignature: 401, BadPayload: 400, BodyTooLarge: 413}
_FRESH_SECONDS, _AGAIN_SECONDS = 30.0, 5.0
"""How long an answer is taken for fresh where the event of a change is lost, and how long the last
one is used where there was none"""
_EARLY = 0.8
"""Part of that time after which it is read again"""
_LONGEST_READ = 4.0
log = logging.getLogger("samebits.receiver")

Repositories = Mapping[str, GitHubRepository]


def make_receiver(
    inbox: Inbox,
    repositories: Callable[[], Awaitable[Repositories]],
    stored: Callable[[Delivery], None],
) -> Starlette:
    """The ASGI app. `repositories` are the configured ones by name; `stored` is told of each
    delivery that lies in the inbox.
    """
    store = _Storing(inbox)

    async def github(request: Request) -> JSONResponse:
        try:
            body = await read_body(request)
            delivery = read_delivery(dict(request.headers), body, await repositories())
            new, kept = await store(delivery)
        except ClientDisconnect:
            return JSONResponse({"error": "The connection ended early."}, 400)
        except SamebitsError as error:
            log.warning("refused a delivery: %s", error)
            return JSONResponse({"error": str(error)}, _STATUS.get(type(error), 503))
        if new:
            stored(delivery)
        return JSONResponse(
            {
                "delivery": kept.id,
                "new": new,
                "state": kept.state,
                "reason": kept.reason,
            },
            202,
        )

    async def healthy(_: Request) -> JSONResponse:
        return JSONResponse({"waiting": await run_in_threadpool(inbox.count_waiting)})

    return Starlette(routes=[Route("/github", github, methods=["POST"]), Route("/health", healthy)])


class _Storing:
    """Keeps deliveries, all that have come meanwhile in one transaction.

    A disk takes few transactions a second, and SQLite gives the turn to whoever asks at the right
    moment: of many that ask at once, some would wait for longer than GitHub does.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox, self._turn = inbox, asyncio.Lock()
        self._waiting: list[tuple[Delivery, asyncio.Future[tuple[bool, Delivery]]]] = []

    async def __call__(self, delivery: Delivery) -> tuple[bool, Delivery]:
        """Whether it is new, and as what it is kept; raises what the inbox raises."""
        kept: asyncio.Future[tuple[bool, Delivery]] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, kept))
        async with self._turn:
            if not kept.done():
                await self._store_all()
        return await kept

    async def _store_all(self) -> None:
        together, self._waiting = self._waiting, []
        try:
            found = await run_in_threadpool(self._inbox.store_all, [each for each, _ in together])
            for (_, kept), result in zip(together, found, strict=True):
                if not kept.done():
                    kept.set_result(result)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for _, kept in together:
                if not kept.done():
                    kept.set_exception(error)
        finally:  # nobody waits for ever for one who was cancelled
            for _, kept in together:
                kept.cancel()


async def read_body(request: Request) -> bytes:
    """The raw body; raises BodyTooLarge as soon as it is, whatever the headers say."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(
                "The body is larger than 25 MB.", hint="GitHub itself sends no such event."
            )
    return bytes(body)


def read_delivery(headers: Mapping[str, str], body: bytes, known: Repositories) -> Delivery:
    """What to keep of a request. Raises BadSignature before it parses anything."""
    signature = headers.get("x-hub-signature-256", "")
    signers = {
        name: repository
        for name, repository in known.items()
        if is_signed(repository.webhook_secret.get_secret_value(), body, signature)
    }
    if not signers:
        raise BadSignature(
            "The signature is missing or wrong.",
            hint="The webhook's secret on GitHub must be that of the repository's block.",
        )
    event, delivery_id = headers_of(headers)
    full_name, clone_url = named_repository(body)
    name = next((n for n, r in signers.items() if same_repository(r.url, clone_url)), "")
    if not name:
        called = one_line(full_name or clone_url) or "without a name"
        reason = f"the repository {called!r} is not configured"
        return Delivery(delivery_id, event, state="ignored", reason=reason)
    push = read_push(event, body)
    if isinstance(push, NoRun):
        return Delivery(delivery_id, event, name, state="ignored", reason=push.reason)
    return Delivery(delivery_id, event, name, push.branch, push.sha, push.subject, push.author)


class KnownRepositories:
    """The repository blocks, as they are in Prefect.

    `run` reads them again before they are old, and after `forget`, so that no delivery has to wait
    for it. While Prefect's API is away, those that were known last are used: no delivery is
    refused.
    """

    def __init__(
        self, read: Callable[[], Awaitable[Repositories]], seconds: float = _FRESH_SECONDS
    ) -> None:
        self._read, self._seconds = read, seconds
        self._known: Repositories | None = None
        self._fresh_until = 0.0
        self._old = asyncio.Event()
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Keep them fresh for ever."""
        while True:
            self._old.clear()
            with suppress(ServerUnavailable):  # whoever asks is told
                await self._refresh()
            with suppress(TimeoutError):
                left = self._fresh_until - asyncio.get_running_loop().time()
                await asyncio.wait_for(self._old.wait(), left * _EARLY)

    def forget(self) -> None:
        """A block has changed, perhaps one of these."""
        self._fresh_until = 0.0
        self._old.set()

    async def __call__(self) -> Repositories:
        if (known := self._fresh()) is not None:
            return known
        async with self._lock:  # those who wait get one answer
            known = self._fresh()
            return await self._refresh() if known is None else known

    def _fresh(self) -> Repositories | None:
        return self._known if asyncio.get_running_loop().time() < self._fresh_until else None

    async def _refresh(self) -> Repositories:
        now = asyncio.get_running_loop().time()
        self._fresh_until = now + self._seconds  # before they are read: one may change meanwhile
        try:
            # The client tries again for long; GitHub waits for its answer for 10 s.
            async with asyncio.timeout(_LONGEST_READ):
                self._known = await self._read()
        except (SamebitsError, TimeoutError) as error:
            self._fresh_until = now + min(self._seconds, _AGAIN_SECONDS)
            if self._known is None:
                raise ServerUnavailable(
                    "The repositories are not known yet: Prefect's API does not answer.",
                    why=str(error),
                    hint="Redeliver this later.",
                ) from error
            log.warning("the last known repositories are used: %s", error)
        return self._known
