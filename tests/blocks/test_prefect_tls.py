"""Clients of Prefect's API are cheap: the service makes one for each look."""

import ssl

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.prefect_api import prefect_api


async def test_clients_do_not_read_the_authorities_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    make = ssl.create_default_context

    def counted(*given: object, **named: object) -> ssl.SSLContext:
        read.append(named)
        return make(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        for _ in range(3):
            async with prefect_api() as client:
                assert client.api_url.port == 1
    assert len(read) <= 1
