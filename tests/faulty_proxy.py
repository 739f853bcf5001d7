"""A door before a registry that answers with faults: as many as it was given, then with none."""

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "server", "date"}
_RESET = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """What happens to a request in place of an answer."""

    UNAVAILABLE = "503"
    RESET = "connection reset"
    BROKEN = "500"
    LOST = "done but the answer was lost"


class FaultyProxy(ThreadingHTTPServer):
    """Hands each request on to the registry, but for those that a fault is meant for."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.upstream = upstream
        self.met = 0
        """How many requests have met the fault"""
        self._fault, self._left, self._lock = Fault.RESET, 0, threading.Lock()
        self._meant: Callable[[str, str], bool] = lambda method, path: False

    @property
    def address(self) -> str:
        """Where the registry seems to be."""
        return f"127.0.0.1:{self.server_port}"

    def inject(self, fault: Fault, times: int, meant: Callable[[str, str], bool]) -> None:
        """Let the next requests whose method and path are `meant` meet a fault."""
        with self._lock:
            self._fault, self._left, self._meant, self.met = fault, times, meant, 0

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request is to meet, if any."""
        with self._lock:
            if not self._left or not self._meant(method, path):
                return None
            self._left -= 1
            self.met += 1
            return self._fault

    def handle_error(self, *_: object) -> None:
        """A client that goes away is nothing to tell of."""


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def relay(self) -> None:
        body = self._body()
        fault = self.server.take(self.command, self.path)
        if fault is Fault.RESET:
            return self._reset()
        if fault in (Fault.UNAVAILABLE, Fault.BROKEN):
            return self._answer(int(fault), [], b"out of order")
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault is Fault.LOST:
            return self._reset()
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        return self._answer(answer.status, list(answer.headers.items()), content, length)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = relay

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = bytearray()
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _reset(self) -> None:
        """End the connection with an RST, as a program that is killed does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy before the registry at an address."""
    with FaultyProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
