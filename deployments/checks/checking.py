"""How each check is run: with a time limit, and never with a traceback."""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from prefect.client.orchestration import PrefectClient

from deployments.settings import SystemSettings
from domain.errors import SamebitsError
from domain.health import Finding, Verdict, failed, skipped
from domain.names import one_line

Result = TypeVar("Result")
Check = Callable[[], Awaitable[Sequence[Finding]]]


@dataclass(frozen=True)
class Scene:
    """The system that is looked at."""

    settings: SystemSettings
    api_url: str
    """Prefect's API"""
    password: str = ""
    """`user:password` of Prefect's API; empty for none"""
    limit_seconds: float = 10.0
    """Longest time of a check"""

    @property
    def here(self) -> bool:
        """Whether all of it is to run on this host, as `make up` starts it."""
        return self.api_url == self.settings.api_url

    @property
    def now(self) -> datetime:
        """By the clock of this host."""
        return datetime.now(UTC)


async def server_now(client: PrefectClient) -> datetime:
    """By the clock of Prefect's server, whose the times of heartbeats and states are."""
    answer = await client.request("GET", "/ready")
    try:
        return parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


async def checked(scene: Scene, what: str, check: Check) -> list[Finding]:
    """What a check finds; an error, and an answer that takes too long, is a failed check."""
    try:
        async with asyncio.timeout(scene.limit_seconds):
            return list(await check())
    except TimeoutError:
        said = f"No answer within {scene.limit_seconds:g} s."
        return [
            failed(what, said, "See whether it runs and how busy it is, and the network to it.")
        ]
    except SamebitsError as error:
        return [of_error(what, error)]
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the others
        said = f"The check itself broke: {type(error).__name__}: {one_line(str(error), 200)}"
        return [failed(what, said, "See the logs of this part; if they say nothing, report it.")]


async def after(scene: Scene, first: Sequence[Finding], what: str, check: Check) -> list[Finding]:
    """What a check finds; where one of the first has failed, or was left out, so is it."""
    for finding in first:
        if finding.verdict in (Verdict.FAILED, Verdict.SKIPPED):
            return [skipped(what, finding.what)]
    return await checked(scene, what, check)


def of_error(what: str, error: SamebitsError) -> Finding:
    """The failed check that an error of ours is."""
    hint = error.hint or f"docs/operating.md says what to do about {type(error).__name__}."
    return failed(what, " ".join(filter(None, (error.what, error.why))), hint)


async def in_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns; it blocks a thread that keeps nobody from ending, however it hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(set_it: Callable[[], None]) -> None:
        if not done.done():
            set_it()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is the caller's
            said = error
            _call(loop, lambda: settle(lambda: done.set_exception(said)))
        else:
            _call(loop, lambda: settle(lambda: done.set_result(result)))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), daemon=True).start()
    return await done


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return  # nobody waits any more
