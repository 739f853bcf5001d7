"""The smallest service that can be delivered: it says hello, and which version it is."""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION = Path(__file__).with_name("VERSION").read_text().strip()


def greeting(name: str) -> str:
    """What the service says."""
    return f"Hello, {name}!"


class Handler(BaseHTTPRequestHandler):
    """`/health` once the service is ready; anything else is greeted."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.strip("/")[:40] or "world"
        text = "ok" if name == "health" else f"{greeting(name)} This is version {VERSION}."
        body = (text + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def missing_settings() -> list[str]:
    """The settings that this version needs and does not find; `NEEDS` names them, one on a line."""
    needs = Path(__file__).with_name("NEEDS").read_text().split()
    return [name for name in needs if not os.environ.get(name)]


def main() -> None:
    if missing := missing_settings():
        sys.exit(f"The setting {', '.join(missing)} is missing: this version cannot start.")
    server = ThreadingHTTPServer(("0.0.0.0", 8000), Handler)
    server.daemon_threads = False  # requests that are under way end before the service does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"hello-service {VERSION} listens on port 8000")
    server.serve_forever()


if __name__ == "__main__":
    main()
