"""Prefect's API and its database."""

import os
from typing import Any

import httpx
import prefect
from prefect.client.orchestration import PrefectClient

from blocks.prefect_api import POOL
from deployments.checks.checking import Scene, server_now
from domain.health import Finding, failed, is_silent, ok, warning
from domain.names import one_line

API = "Prefect's API"
DATABASE = "database"
_URLS = (
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)


async def check_api(scene: Scene) -> list[Finding]:
    """Whether it is ready, and takes this host's password."""
    url = scene.api_url
    user, _, password = scene.password.partition(":")
    auth = (user, password) if scene.password else None
    log = scene.settings.home / "logs" / "prefect-server.log"
    see_log = f"See its log, {log}." if scene.here else "See its log on its host."
    try:
        async with httpx.AsyncClient(
            trust_env=not scene.here, timeout=scene.limit_seconds
        ) as client:
            ready = await client.get(f"{url}/ready")
            version = await client.get(f"{url}/admin/version", auth=auth)
    except httpx.TransportError as error:
        why = one_line(f"{type(error).__name__}: {error}", 200)
        start = (
            "Start the system: make up" if scene.here else "Start it, or correct PREFECT_API_URL."
        )
        return [failed(API, f"{url} does not answer. {why}", start)]
    if not ready.is_success:
        said = f"{url}/ready answered {ready.status_code}: {one_line(ready.text, 200)}"
        return [failed(API, said, f"Does its database run and answer? {see_log}")]
    if version.status_code in (401, 403):
        return [failed(API, f"{url} refuses the password of this host.", _password_hint(scene))]
    if not version.is_success:
        said = f"{url}/admin/version answered {version.status_code}."
        return [failed(API, said, f"Is it Prefect's server? {see_log}")]
    return [_of_version(url, str(version.json()))]


def _password_hint(scene: Scene) -> str:
    if not scene.here:
        return "Set PREFECT_API_AUTH_STRING to the user:password that the server asks for."
    return (
        "Is it this system's server? Give this command the same SAMEBITS_HOME, and "
        "PREFECT_SERVER_API_AUTH_STRING if it was set, as `make up` has."
    )


def _of_version(url: str, version: str) -> Finding:
    if version != prefect.__version__:
        said = f"{url} answers with version {version}; this host has {prefect.__version__}."
        return warning(API, said, "Run the same version everywhere: that of uv.lock.")
    return ok(API, f"{url} is ready, version {version}")


async def check_database(scene: Scene, client: PrefectClient) -> list[Finding]:
    """Whether it takes as many writers as there are."""
    answer = await client.request("GET", "/admin/settings")
    kind = database_kind(scene, answer.json())
    workers = await client.read_workers_for_work_pool(POOL)
    now = await server_now(client)
    online = [w.name for w in workers if not is_silent(w.last_heartbeat_time, now)]
    if kind == "SQLite" and len(online) > 1:
        return [
            warning(
                DATABASE,
                f"SQLite, with {len(online)} workers: it sheds load under several writers.",
                "Use PostgreSQL: docs/operating.md, Several hosts.",
            )
        ]
    return [ok(DATABASE, kind or "answers; of which kind it is, the server does not say")]


def database_kind(scene: Scene, server: dict[str, Any]) -> str:
    """SQLite or PostgreSQL; empty where that is not known: the server masks its URL."""
    said = (server.get("server") or {}).get("database") or {}
    hints = [str(said.get("driver") or "")]
    if scene.here:
        hints += [os.environ.get(name, "") for name in _URLS]
        hints += ["sqlite" if (scene.settings.home / "prefect" / "prefect.db").exists() else ""]
    known = next((hint for hint in hints if hint), "")
    kinds = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    return next((name for scheme, name in kinds.items() if known.startswith(scheme)), "")
