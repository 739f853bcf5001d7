"""The receiver, the inbox and the reconciler: whether pushes become runs."""

from collections.abc import Iterable
from datetime import UTC, datetime

import httpx

from deployments.checks.checking import Scene
from deployments.heard import Heard
from deployments.inbox import Inbox
from domain.health import WAITING_SECONDS, Finding, age, failed, is_overdue, lasting, ok, warning
from domain.names import one_line

RECEIVER, DELIVERIES, PUSHES = "receiver", "deliveries", "reconciled"
_ANY = ("0.0.0.0", "::")  # noqa: S104 - it is compared with, nobody listens


async def check_receiver(scene: Scene) -> list[Finding]:
    """Whether it answers, as seen from here; nobody here knows whether GitHub reaches it."""
    settings = scene.settings
    host = "127.0.0.1" if settings.receiver_host in _ANY else settings.receiver_host
    url = f"http://{host}:{settings.receiver_port}/health"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=scene.limit_seconds) as client:
            answer = await client.get(url)
    except httpx.TransportError as error:
        why = one_line(f"{type(error).__name__}: {error}", 200)
        if not scene.here:
            said = f"None answers on this host, at {url}."
            return [warning(RECEIVER, said, "Look on the host that has it: run this there, too.")]
        return [failed(RECEIVER, f"{url} does not answer. {why}", "Start the system: make up")]
    if not answer.is_success:
        said = f"{url} answered {answer.status_code}: {one_line(answer.text, 100)}"
        return [failed(RECEIVER, said, f"See {settings.home / 'logs' / 'receiver.log'}.")]
    return [ok(RECEIVER, f"{url} answers")]


async def check_inbox(scene: Scene) -> list[Finding]:
    """Whether deliveries wait that should have become runs."""
    file = scene.settings.inbox
    if not file.exists():  # looking makes none
        return [ok(DELIVERIES, f"{scene.settings.inbox} is not there: none has come to this host")]
    since = Heard(file).waiting_since()
    if since is None:
        return [ok(DELIVERIES, "none waits")]
    waited = age(since, scene.now)
    said = f"{Inbox(file).count_waiting()} wait, the oldest for {waited}"
    if (scene.now - since).total_seconds() <= WAITING_SECONDS:
        return [ok(DELIVERIES, said)]
    log = scene.settings.home / "logs" / "receiver.log"
    hint = f"They become runs once Prefect's API answers the receiver. {log} says what it lacks."
    return [failed(DELIVERIES, f"{said}.", hint)]


async def check_pushes(scene: Scene, repositories: Iterable[str]) -> list[Finding]:
    """Whether git was asked for the heads of each repository, and its webhook seems to work."""
    if not scene.settings.inbox.exists():
        return []
    return [
        finding for name in repositories for finding in (_look(scene, name), _webhook(scene, name))
    ]


def _look(scene: Scene, repository: str) -> Finding:
    what, every = f"{PUSHES} {repository}", scene.settings.reconcile_seconds
    seconds = Inbox(scene.settings.inbox).last_look(repository)
    log = scene.settings.home / "logs" / "receiver.log"
    hint = f"The receiver does it: does it run, and does git answer? {log} says what went wrong."
    if seconds is None:
        return warning(what, "Git was not asked for its branches yet.", hint)
    last = datetime.fromtimestamp(seconds, UTC)
    said = f"git was last asked {age(last, scene.now)} ago"
    if is_overdue(last, every, scene.now):
        return failed(what, f"{said}; it is to be every {lasting(every)}.", hint)
    return ok(what, said)


def _webhook(scene: Scene, repository: str) -> Finding:
    what = f"webhook {repository}"
    heard = Heard(scene.settings.inbox)
    told, found = heard.last_delivery(repository), heard.last_found(repository)
    every = lasting(scene.settings.reconcile_seconds)
    if told is None:
        return ok(what, f"no delivery yet; git itself is asked every {every}")
    said = f"last delivery {age(told, scene.now)} ago"
    if found is None or found <= told:
        return ok(what, said)
    return warning(
        what,
        f"{said}; a push {age(found, scene.now)} ago was found by asking git, no delivery told.",
        "See Recent Deliveries on GitHub, under Settings → Webhooks: is the address right, and "
        "does GitHub reach the receiver?",
    )
