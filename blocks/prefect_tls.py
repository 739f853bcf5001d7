"""TLS to Prefect's API."""

import ssl
from functools import cache
from typing import Any

import httpx
from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_TLS_INSECURE_SKIP_VERIFY


def shared_tls() -> dict[str, Any] | None:
    """What a client is given so that it does not read the authorities anew.

    Prefect's clients do, each of them, also where the API is http: that takes 60 ms, in which an
    event loop stands still. None where nothing is to be verified.
    """
    if PREFECT_API_TLS_INSECURE_SKIP_VERIFY:
        return None
    return {"verify": _tls(PREFECT_API_SSL_CERT_FILE.value())}


@cache
def _tls(authorities: str | None) -> ssl.SSLContext:
    if authorities:
        return ssl.create_default_context(cafile=authorities)
    return httpx.create_ssl_context()
