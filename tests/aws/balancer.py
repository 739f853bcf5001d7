"""A small HTTP load balancer in front of the tasks of a service."""

import socket
import threading
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}

Targets = Sequence[str]
"""`address:port` of each"""


class Targeting:
    """Which targets get requests, and how many requests each one has."""

    def __init__(self) -> None:
        self._old: list[str] = []
        self._new: list[str] = []
        self._percent = 100.0
        self._count = 0
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()

    def turn(self, old: Targets, new: Targets, percent: float) -> None:
        """From now on `percent` of the requests go to the new targets, the others to the old."""
        with self._lock:
            self._old, self._new, self._percent = list(old), list(new), percent

    def withdraw(self, target: str) -> None:
        """From now on a target gets no new requests."""
        with self._lock:
            self._old = [one for one in self._old if one != target]
            self._new = [one for one in self._new if one != target]

    def drained(self, target: str) -> bool:
        """Whether a target has no request under way."""
        with self._lock:
            return not self._busy[target]

    def take(self) -> str | None:
        """The target of the next request, None where nothing serves; `give_back` it."""
        with self._lock:
            self._count += 1
            before, now = ((self._count - less) * self._percent // 100 for less in (1, 0))
            chosen = self._new if now > before else self._old
            if not chosen:
                return None
            target = chosen[self._count % len(chosen)]
            self._busy[target] += 1
            return target

    def give_back(self, target: str) -> None:
        """A request has ended."""
        with self._lock:
            self._busy[target] -= 1


class Balancer:
    """Listens on a free port of 127.0.0.1; a context manager."""

    def __init__(self, targeting: Targeting) -> None:
        self._targeting = targeting
        # No connection is kept: one that is idle would keep a service from ending.
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_keepalive_connections=0), timeout=30, trust_env=False
        )
        app = Starlette(
            routes=[Route("/{path:path}", self._forward, methods=_METHODS)],
        )
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, lifespan="off", ws="none", access_log=False)
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="ecs-balancer")

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._url = self.url
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        self._server.config.timeout_graceful_shutdown = 2
        self._server.run(sockets=[self._socket])

    async def _forward(self, request: Request) -> Response:
        target = self._targeting.take()
        if target is None:
            return Response("503 Service Temporarily Unavailable\n", 503)
        try:
            return await self._ask(target, request)
        except httpx.TransportError as error:
            return Response(f"502 Bad Gateway: {error!r}\n", 502)
        finally:
            self._targeting.give_back(target)

    async def _ask(self, target: str, request: Request) -> Response:
        question = f"?{request.url.query}" if request.url.query else ""
        url = f"http://{target}{request.url.path}{question}"
        headers = [pair for pair in request.headers.items() if pair[0] not in _OF_ONE_HOP]
        asked = self._client.build_request(
            request.method, url, headers=headers, content=await request.body()
        )
        answer = await self._client.send(asked, stream=True)
        try:
            content = b"".join([part async for part in answer.aiter_raw()])
        finally:
            await answer.aclose()
        found = Response(content, answer.status_code)
        found.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.decode().lower() not in _OF_ONE_HOP
        ]
        return found
