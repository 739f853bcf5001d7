"""What Prefect's server does before and in each request, where `up` starts it."""

import gzip
import threading
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.dependencies import utils
from prefect.server.api import server
from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings
from starlette.middleware.base import BaseHTTPMiddleware

from deployments.prefect_requests import (
    LOOKS,
    LookBefore,
    answer_at_once,
    compress_quickly,
    middleware,
)

PASSWORD = ("samebits", "a password")


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """Prefect's API, with a password, and something to ask it for that needs no database."""
    monkeypatch.setattr(FastAPI, "middleware", middleware)
    monkeypatch.setattr(server, "GZipMiddleware", server.GZipMiddleware)  # and back again
    compress_quickly()
    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: ":".join(PASSWORD)}):
        app = server.create_api_app(ignore_cache=True)

    @app.post("/said")
    async def said(said: dict[str, str]) -> dict[str, str]:
        return said

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://prefect") as client:
        yield client


def test_both_of_prefects_looks_are_taken_over(app: FastAPI) -> None:
    taken = [one for one in app.user_middleware if one.cls is LookBefore]
    assert {one.kwargs["look"].__name__ for one in taken} == set(LOOKS)  # type: ignore[attr-defined]
    assert not [one for one in app.user_middleware if one.cls is BaseHTTPMiddleware]


def test_any_other_middleware_is_fastapis_own(app: FastAPI) -> None:
    @app.middleware("http")
    async def another(request: object, call_next: object) -> None: ...

    assert app.user_middleware[0].cls is BaseHTTPMiddleware


@pytest.mark.parametrize("password", [None, ("samebits", "another"), ("samebits", "")])
async def test_without_the_password_nothing_is_told(
    client: httpx.AsyncClient, password: tuple[str, str] | None
) -> None:
    answer = await client.get("/version", auth=password)
    assert (answer.status_code, answer.json()) == (401, {"exception_message": "Unauthorized"})
    assert (await client.get("/health/../version", auth=password)).status_code == 401
    assert (await client.post("/health", auth=password)).status_code == 401


async def test_with_the_password_it_answers_and_to_a_probe_without_it(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/version", auth=PASSWORD)).status_code == 200
    assert (await client.get("/health")).json() is True


async def test_json_that_an_old_client_does_not_call_so_is_read(client: httpx.AsyncClient) -> None:
    answer = await client.post("/said", content=b'{"so": "it"}', auth=PASSWORD)
    assert answer.json() == {"so": "it"}


async def test_a_long_answer_is_compressed_quickly(client: httpx.AsyncClient) -> None:
    said = {str(number): "a long answer " * 5 for number in range(1000)}
    answer = await client.post("/said", json=said, auth=PASSWORD)
    assert answer.json() == said
    assert answer.headers["Content-Encoding"] == "gzip"
    compressed = gzip.compress(answer.content, compresslevel=9)
    assert len(compressed) < int(answer.headers["Content-Length"]) < len(answer.content) / 5


async def test_what_a_request_is_given_is_not_worked_out_in_a_thread(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "run_in_threadpool", utils.run_in_threadpool)  # type: ignore[attr-defined]
    find = dependencies.provide_database_interface
    monkeypatch.setattr(dependencies, "provide_database_interface", find)

    def own() -> int:
        return threading.get_ident()

    @app.get("/thread")
    async def thread(given: Annotated[int, Depends(own)]) -> bool:
        return given == own()

    async def at_once() -> bool:
        return (await client.get("/thread", auth=PASSWORD)).json() is True

    assert not await at_once()
    answer_at_once()
    assert await at_once()
    with dependencies.temporary_database_config(AioSqliteConfiguration("sqlite+aiosqlite://")):
        database = dependencies.provide_database_interface()
        assert dependencies.provide_database_interface() is database is find()
