"""Writes down each request of a process, by httpx or requests, and how it was forked, where
BENCH_TRACE names a file.

Python loads this at its start, where this folder is on its path: the system under test is not
changed for it. Each line is a JSON object: `pid`, `at` and `seconds` (of the epoch), `method`,
`path` and `status`; a fork has the method `fork`, and the process that was made.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time


def _note(at: float, method: str, path: str, status: int) -> None:
    line = {
        "pid": os.getpid(),
        "at": at,
        "seconds": time.time() - at,
        "method": method,
        "path": path,
        "status": status,
    }
    file = os.open(os.environ["BENCH_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(line).encode() + b"\n")
    os.close(file)


def _trace_forks() -> None:
    begun = [0.0]

    def before():
        begun[0] = time.time()

    os.register_at_fork(before=before, after_in_child=lambda: _note(begun[0], "fork", "", 0))


def _trace_httpx(httpx) -> None:
    waits, sends = httpx.AsyncHTTPTransport.handle_async_request, httpx.HTTPTransport.handle_request

    async def wait(self, request):
        at = time.time()
        response = await waits(self, request)
        _note(at, request.method, request.url.raw_path.decode(), response.status_code)
        return response

    def send(self, request):
        at = time.time()
        response = sends(self, request)
        _note(at, request.method, request.url.raw_path.decode(), response.status_code)
        return response

    httpx.AsyncHTTPTransport.handle_async_request = wait
    httpx.HTTPTransport.handle_request = send


def _trace_requests(requests) -> None:
    sends = requests.adapters.HTTPAdapter.send

    def send(self, request, *args, **kwargs):
        at = time.time()
        response = sends(self, request, *args, **kwargs)
        _note(at, request.method, request.path_url, response.status_code)
        return response

    requests.adapters.HTTPAdapter.send = send


_TRACES = {"httpx": _trace_httpx, "requests": _trace_requests}


class _Finder(importlib.abc.MetaPathFinder):
    """Loads these libraries as usual, then traces them."""

    def find_spec(self, name, path, _target=None):
        if name not in _TRACES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            _TRACES[name](module)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("BENCH_TRACE"):
    sys.meta_path.insert(0, _Finder())
    _trace_forks()
