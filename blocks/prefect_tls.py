"""TLS, to Prefect's API and elsewhere: a client that is made anew reads no authorities anew."""

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
    return {"verify": tls(PREFECT_API_SSL_CERT_FILE.value())}


@cache
def tls(authorities: str | None = None) -> ssl.SSLContext:
    """What trusts the authorities of a file; without one, those of the world. Made once."""
    if authorities:
        return ssl.create_default_context(cafile=authorities)
    return httpx.create_ssl_context()
