"""What the tests have a forked process do: it spoils all it can reach, and says what it found."""

import asyncio
import atexit
import gc
import io
import json
import logging
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import prefect
from prefect import flow_engine, results
from prefect._internal.version_checking import _api_version_check_key, _is_api_version_check_cached
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import SettingsContext
from prefect.events.related import RESOURCE_CACHE
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.states import Running
from pydantic import BaseModel

import flows.pipeline


def known_run() -> str:
    """The name of the run that the worker handed over, if it did."""
    known = flow_engine.load_flow_run.__module__ == "deployments.warm.known"
    return flow_engine.load_flow_run(flow_run_id=uuid4()).name if known else ""


def known_storage() -> list[str]:
    """Where the worker said that results are kept, as the engine's two kinds of flows ask."""
    reads = results._read_server_default_result_storage_block_id
    if reads.__module__ != "deployments.warm.known":
        return []
    waits = results._aread_server_default_result_storage_block_id
    return [str(reads()), str(asyncio.run(waits()))]


class Nobody(Exception):
    """There is no server."""


class Asked(PrefectClient):
    """A client that is told nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[object] = []

    async def request(self, method: str, path: str, *_: Any, **more: Any) -> Any:
        self.requests.append([method, path, more.get("json")])
        raise Nobody


def asked_as_a_run() -> list[object]:
    """What Prefect's engine asks for as it begins a run, of which it is told that it is Running."""
    client, known = Asked(), known_run()
    run = flow_engine.load_flow_run(uuid4()) if known else FlowRun(id=uuid4(), flow_id=uuid4())
    run.state = Running()
    found: list[object] = []
    with suppress(Nobody):
        asyncio.run(client.update_flow_run(run.id, flow_version="1"))
    for _ in range(2):
        with suppress(Nobody):
            read = asyncio.run(client.read_flow_run(run.id))
            found.append([read.name, read.run_count, read.start_time == run.state.timestamp])
    version = _api_version_check_key(os.environ.get("PREFECT_API_URL", "None"), prefect.__version__)
    return [*client.requests, *found, _is_api_version_check_cached(version)]


def incomplete(model: type[BaseModel]) -> list[str]:
    """The models below one whose schema is made on first use."""
    below = model.__subclasses__()
    own = [one.__qualname__ for one in below if not one.__pydantic_complete__]
    return own + [name for one in below for name in incomplete(one)]


def logged(words: str) -> str:
    """What stands in the log of a process that says something."""
    stream = io.StringIO()
    PrefectConsoleHandler(stream=stream).emit(logging.makeLogRecord({"msg": words}))
    return stream.getvalue()


settings = SettingsContext.get()
found = {
    "environment": dict(os.environ),
    "folder": str(Path.cwd()),
    "modules": sorted(sys.modules),
    "spoilt": getattr(flows.pipeline, "spoilt", ""),
    "pid": os.getpid(),
    "parent": os.getppid(),
    "threads": threading.active_count(),
    "title": Path("/proc/self/cmdline").read_text().strip("\0"),
    "known": {key: entry["object"].name for key, (entry, _) in RESOURCE_CACHE.items()},
    "run": known_run(),
    "storage": known_storage(),
    "asked": asked_as_a_run(),
    # What was there before the fork is frozen, and not listed.
    "settings_read": gc.is_tracked(settings) and settings in gc.get_objects(),
    "incomplete_models": incomplete(BaseModel),
    "logged": logged("a :bug: it is"),
    "suspension": flow_engine.observe_flow_run_suspension.__module__,  # type: ignore[attr-defined]
    "handlers": str(signal.getsignal(signal.SIGTERM)),
}
writing = Path("found.json.writing")
writing.write_text(json.dumps(found))
writing.rename("found.json")  # whoever sees the file sees all of it

os.environ["SPOILT"] = "by the run before"
flows.pipeline.spoilt = "by the run before"  # type: ignore[attr-defined]
sys.modules["spoilt_by_the_run_before"] = sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
match os.environ["DO"]:
    case "exit 3":
        sys.exit(3)
    case "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    case "raise":
        raise RuntimeError("an error that nobody expected")
    case "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        print(len(bytearray(8 << 30)))
    case "leave something":
        atexit.register(Path("at the end").touch)
        threading.Timer(0.2, Path("of a thread").touch).start()
        print("the last words", end="")
    case "wait":
        signal.pause()
