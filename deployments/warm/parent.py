"""The parent of warm runs: it has everything loaded, and forks a process for each run.

It reads a JSON object in each line of a socket, `{"run", "module", "environment", "folder",
"known"}`, and answers with `{"run", "pid"}`, and once the run's process has ended with `{"run",
"code"}`, as subprocess has it. After `{"leave": true}` it ends with its last run. Where the socket
ends without it, the worker is dead: it ends at once, and the kernel ends its runs.

usage: python -m deployments.warm.parent FD …
"""

import atexit
import gc
import importlib
import json
import logging
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from prefect.context import refresh_global_settings_context
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.plugins import load_prefect_collections
from prefect.settings import PREFECT_LOGGING_COLORS, PREFECT_LOGGING_MARKUP
from pydantic import BaseModel

from blocks.prefect_tls import tls
from blocks.process import call_itself, end_with_worker
from deployments.warm.known import begin, remember
from deployments.warm.suspending import observe_meanwhile

# What each run would else load: Prefect's engine, our own flows, and what those load when they run.
_LOADED = (
    "flows.pipeline",
    "flows.redeploy",
    "flows.prune",
    "prefect.main",
    "prefect.engine",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.events.clients",
    "prefect.events.worker",
    "prefect.logging.handlers",
    "prefect.deployments.steps",
    "prefect._internal.metrics",
    "prefect.utilities.visualization",
    "anyio._backends._asyncio",
    "anyio.streams.tls",
    "email.policy",
    "multiprocessing.pool",
    "websockets",
)
Words = dict[str, Any]


def main(channel: socket.socket) -> None:
    """Fork for each request; in the child, become the run."""
    for name in _LOADED:
        importlib.import_module(name)
    load_prefect_collections()  # the first block that is loaded does so
    _complete_models()
    observe_meanwhile()
    tls()  # each run would else read the authorities of the world, for its registry
    call_itself()  # before the first fork: it looks for the place of its title in the environment
    gc.collect()
    gc.freeze()  # what is loaded stays shared with the children
    request = _Parent(channel).serve()
    if request:
        _become(request)


def _complete_models(model: type[BaseModel] = BaseModel) -> None:
    """Prefect leaves the schema of a model to its first use, which would be in each run."""
    for below in model.__subclasses__():
        if not below.__pydantic_complete__:
            below.model_rebuild(raise_errors=False)
        _complete_models(below)


class _Parent:
    """Its loop, in one thread: a fork copies no other one."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._text = channel, b""
        self._runs: dict[int, str] = {}
        self._leaves = False
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wakes, False)

    def serve(self) -> Words | None:
        """Return a request in the child that is to become it, None in the parent at its end."""
        signal.set_wakeup_fd(self._wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it ends with its worker
        self._say({"ready": os.getpid()})
        with selectors.DefaultSelector() as ready:
            ready.register(self._channel, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while self._runs or not self._leaves:
                for key, _ in ready.select():
                    if key.fileobj == self._woken:
                        self._reap()
                    elif request := self._receive():
                        return request
        return None

    def _receive(self) -> Words | None:
        """Do what is asked for; in a child that was forked, return what it is to become."""
        part = self._channel.recv(1 << 16)
        if not part:  # the worker is dead, and its runs are to die with it
            sys.exit(1)
        *lines, self._text = (self._text + part).split(b"\n")
        for line in lines:
            words: Words = json.loads(line)
            if "leave" in words:
                self._leaves = True
            elif not (pid := os.fork()):
                self._forget()
                return words
            else:
                self._runs[pid] = words["run"]
                self._say({"run": words["run"], "pid": pid})
        return None

    def _forget(self) -> None:
        """In a child: nothing of the parent's is open, and signals mean what they usually do."""
        signal.set_wakeup_fd(-1)
        os.close(self._woken)
        os.close(self._wakes)
        self._channel.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                if run := self._runs.pop(pid, ""):
                    self._say({"run": run, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, words: Words) -> None:
        with suppress(OSError):  # a worker that is gone wants to know nothing
            self._channel.sendall(json.dumps(words).encode() + b"\n")


def _become(request: Words) -> None:
    """Run a module, Prefect's engine for one, as a fresh `python -m` would."""
    before = _settings(os.environ)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    call_itself(request["run"])
    end_with_worker()
    random.seed()
    if _settings(request["environment"]) != before:
        refresh_global_settings_context()  # reading them anew takes 50 ms
    _log_plainly()
    remember(request["known"])
    begin(request["known"])
    sys.argv = [request["module"]]
    code = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise  # a message, which Python prints
        code = ended.code or 0
    _end(code)


def _log_plainly() -> None:
    """Write the lines of the log as they are, where they are to have neither colours nor markup.

    Prefect has rich print them, which takes 2 ms for each, and makes a picture of each :bug: in it.
    """
    if not PREFECT_LOGGING_COLORS.value() and not PREFECT_LOGGING_MARKUP.value():
        PrefectConsoleHandler.emit = logging.StreamHandler.emit  # type: ignore[method-assign]


def _end(code: int) -> None:
    """End as Python does, but without taking apart all that was loaded, which takes 0.2 s.

    As `multiprocessing` ends what it has forked: threads are waited for, which send the last logs
    and events, and what was registered for the end is called.
    """
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What Prefect reads its settings from."""
    return {k: v for k, v in environment.items() if k.startswith("PREFECT_") and k[8:9] != "_"}


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
