# ruff: noqa: SLF001 - the SDK's build() cannot ask for BuildKit; these are what it is made of.
"""Building an image with BuildKit over the plain Engine API: no command line tool, no plugin.

Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageBuild
"""

import json
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

import requests.exceptions

from blocks.engine.buildkit import Progress
from blocks.engine.faults import engine_error, engine_faults
from domain.errors import (
    LOG_TAIL_LINES,
    BaseImageUnavailable,
    BuildFailed,
    BuildTimedOut,
    EngineUnavailable,
    SamebitsError,
)
from domain.names import one_line
from domain.settings import BuildSettings

_MOST_LINE = 2000
# The message quotes the step's command, which may hold any words.
_STEP_ENDED = re.compile(r"exit code: \d+\s*\Z")
_BASE_AWAY = re.compile(
    r"failed to do request|toomanyrequests|failed to (?:resolve|copy|authorize).*"
    r"(?:50[0234]|timeout|connection re|EOF|no such host)"
)
# The last: an image of the same ID was removed while this build was giving it its name.
_BROKEN_OFF = re.compile("Unavailable|context canceled|failed to get digest")


def build_image(
    api: Any,  # docker.APIClient
    context: IO[bytes],
    settings: BuildSettings,
    labels: Mapping[str, str],
    tag: str,
    log: Callable[[str], None],
) -> str:
    """Build a context, under a tag; each line of progress goes to `log`. Returns the image ID."""
    build_id = uuid.uuid4().hex
    params = {
        "version": "2",
        "buildid": build_id,
        "dockerfile": settings.dockerfile,
        "t": tag,
        "rm": "1",
        "forcerm": "1",
        "buildargs": json.dumps(settings.args),
        "labels": json.dumps(labels),
    }
    if settings.target:
        params["target"] = settings.target
    with engine_faults("building the image"):
        answer = api._post(
            api._url("/build"),
            data=context,
            params=params,
            headers={"Content-Type": "application/x-tar"},
            stream=True,
            timeout=(10, None),
        )
        api._raise_for_status(answer)
    timed_out = threading.Event()

    def give_up() -> None:
        timed_out.set()
        _cancel(api, build_id)

    timer = threading.Timer(settings.timeout_seconds, give_up)
    timer.start()
    try:
        with engine_faults("building the image"):
            return _follow(answer.iter_lines(), log)
    except SamebitsError:
        if timed_out.is_set():
            raise BuildTimedOut(
                f"The build took longer than {settings.timeout_seconds} s and was stopped.",
                hint="Make it faster, or raise settings.build.timeout_seconds in prefect.yaml.",
            ) from None
        raise
    except BaseException:
        # This run is being cancelled: without a word the engine would build on.
        _cancel(api, build_id)
        raise
    finally:
        timer.cancel()
        answer.close()


def _follow(lines: Iterator[bytes], log: Callable[[str], None]) -> str:
    progress, tail, image_id = Progress(), deque[str](maxlen=LOG_TAIL_LINES), ""

    def tell(line: str) -> None:
        line = line[:_MOST_LINE]
        tail.append(line)
        log(line)

    for line in lines:
        message: dict[str, Any] = json.loads(line)
        if message.get("id") == "moby.buildkit.trace":
            for text in progress.lines(message["aux"]):
                tell(text)
        elif message.get("id") == "moby.image.id":
            image_id = message["aux"]["ID"]
        elif "errorDetail" in message:
            raise _failure(message["errorDetail"].get("message", ""), list(tail))
    if not image_id:
        # An engine that dies can end the stream without an error.
        raise EngineUnavailable(
            "The build's log ended without an image.", why="The engine went away."
        )
    return image_id


def _failure(message: str, tail: list[str]) -> Exception:
    failed = BuildFailed(
        "The image could not be built.",
        why=one_line(message, 500),
        hint="Mend the Dockerfile or what it calls, and push again.",
        log=tail,
    )
    if "no space left on device" in message:
        return engine_error("building the image", message)
    if _STEP_ENDED.search(message):
        return failed
    if _BASE_AWAY.search(message):
        return BaseImageUnavailable(
            "A base image cannot be had: its registry does not answer.",
            why=one_line(message, 500),
            hint="Check that the engine reaches the registry that FROM names.",
        )
    if _BROKEN_OFF.search(message):
        return EngineUnavailable("The build was broken off.", why=one_line(message, 300))
    return failed


def _cancel(api: Any, build_id: str) -> None:
    # Where the engine is away there is nothing left to cancel.
    with suppress(requests.exceptions.RequestException):
        api._post(api._url("/build/cancel"), params={"id": build_id}, timeout=10).close()
