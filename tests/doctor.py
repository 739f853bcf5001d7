"""What the tests of the doctor share: a system of which nothing runs, and small servers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from blocks.repository import GitHubRepository
from deployments.checks.checking import Scene
from deployments.settings import SystemSettings
from domain.health import Finding
from tests.conftest import free_port


def idle_scene(folder: Path) -> Scene:
    """A system of which nothing runs, all of it to be on this host."""
    settings = SystemSettings(
        home=folder / "home",
        prefect_port=free_port(),
        receiver_port=free_port(),
        least_free_mib=0,
    )
    return Scene(settings, settings.api_url, limit_seconds=60)


def elsewhere(scene: Scene) -> Scene:
    """The same one, on other hosts."""
    return Scene(scene.settings, f"http://127.0.0.1:{free_port()}/other", limit_seconds=60)


def verdicts(findings: list[Finding]) -> dict[str, str]:
    """How each part stands."""
    return {finding.what: finding.verdict.value for finding in findings}


@contextmanager
def answering(port: int, answers: dict[str, tuple[int, str]], date: str = "") -> Iterator[str]:
    """A server that gives these answers, status and body, by path; returns its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, ""))
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            if date:
                self.send_header("Date", date)
            self.end_headers()
            self.wfile.write(body.encode())

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def hello(**fields: Any) -> GitHubRepository:
    """A repository's block; `fields` replace those that it has."""
    return GitHubRepository(**({"url": "/srv/hello.git", "webhook_secret": "long enough"} | fields))
