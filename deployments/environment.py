"""The environment that the parts of the system run in."""

import os
from typing import Any

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_RETRY_EXTRA_CODES,
    PREFECT_UI_URL,
)

from deployments.authorities import no_authority
from deployments.secret_files import secret_file
from deployments.settings import SystemSettings


def child_environment(settings: SystemSettings) -> dict[str, str]:
    """The environment of each part: this one, this system's settings, and Prefect's."""
    auth = {"PREFECT_API_AUTH_STRING": api_password(settings)}
    return dict(os.environ) | auth | own_environment(settings) | prefect_environment(settings)


def own_environment(settings: SystemSettings) -> dict[str, str]:
    """These settings as the environment variables that they are read from."""
    return {f"SAMEBITS_{k.upper()}": str(v) for k, v in settings.model_dump().items()}


def api_password(settings: SystemSettings) -> str:
    """`user:password` of Prefect's API and UI: the user's own, else one that is made on first use.

    Whoever reaches the API can read each secret, and a Dockerfile reaches it: BuildKit fetches what
    `ADD http://127.0.0.1:…` names from the engine's host.
    """
    own = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    return own or "samebits:" + secret_file(settings.home / "api.password")


def prefect_environment(settings: SystemSettings) -> dict[str, str]:
    """Prefect's settings for this system; what the user has set wins."""
    wanted = {
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_API_URL": settings.api_url,
        "PREFECT_UI_URL": settings.ui_url,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": settings.ui_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # On SQLite this service storms when hundreds of runs wait.
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        # A database that is down is a 500, which the client would not try again.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
        # Events tell the worker of a run; this is for those that are lost.
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        # Each line of a run's log would be searched for what can be coloured.
        "PREFECT_LOGGING_COLORS": "false",
        # Each client would ask for these first.
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": os.environ.get(
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "false"
        ),
        "PREFECT_API_SSL_CERT_FILE": str(no_authority(settings.home)),
        # In memory, a lock whose holder died with the server would never be free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }
    fixed = ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_UI_URL")
    return {k: v if k in fixed else os.environ.get(k, v) for k, v in wanted.items()}


def client_settings(settings: SystemSettings) -> dict[Any, str]:
    """What this process itself needs to talk to the server."""
    environment = child_environment(settings)
    return {
        PREFECT_API_URL: settings.api_url,
        PREFECT_UI_URL: settings.ui_url,
        PREFECT_API_AUTH_STRING: environment["PREFECT_API_AUTH_STRING"],
        PREFECT_CLIENT_RETRY_EXTRA_CODES: environment["PREFECT_CLIENT_RETRY_EXTRA_CODES"],
    }
