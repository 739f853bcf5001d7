"""The way of a delivery as real processes: the service of `samebits receive`, and a Prefect server.

Nothing runs the runs: what is seen is that each is made, once.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prefect.settings import temporary_settings
from pydantic import SecretStr

from blocks.prefect_api import prefect_api
from blocks.repository import GitHubRepository
from deployments.environment import api_password, child_environment, client_settings
from deployments.inbox import Inbox
from deployments.processes import Child, answers
from deployments.settings import SystemSettings
from domain.github import signature
from tests.waiting import wait_until

REPOSITORY = "hello"
SECRET = "the secret of the webhook"


def sha_of(text: str) -> str:
    """A commit SHA of this text's own."""
    return hashlib.sha1(text.encode()).hexdigest()


def push_body(url: str, branch: str, sha: str, message: str = "A change") -> bytes:
    """The body of a push to a branch, as GitHub sends it, shortened."""
    head = {"id": sha, "message": message, "author": {"name": "Ada", "username": "ada"}}
    repository = {"full_name": f"example/{REPOSITORY}", "clone_url": url}
    whole = {
        "ref": f"refs/heads/{branch}",
        "after": sha,
        "deleted": False,
        "head_commit": head,
        "repository": repository,
    }
    return json.dumps(whole).encode()


def signed(body: bytes, secret: str = SECRET, delivery: str = "") -> dict[str, str]:
    """The headers of a delivery with this body."""
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery or str(uuid.uuid4()),
        "X-Hub-Signature-256": signature(secret, body),
    }


class Arrivals:
    """The two processes; each can be killed and started again."""

    def __init__(self, settings: SystemSettings, bare: Path) -> None:
        self.settings, self.bare = settings, bare
        self.inbox = Inbox(settings.inbox)
        self._children: dict[str, Child] = {}

    # -- the processes ------------------------------------------------------------------------

    def start_server(self) -> None:
        """Start the Prefect server, on what it has kept."""
        port = str(self.settings.prefect_port)
        argv = ["deployments.prefect_server", "--host", "127.0.0.1", "--port", port]
        password = {"PREFECT_SERVER_API_AUTH_STRING": api_password(self.settings)}
        self._start("server", argv, f"{self.settings.api_url}/ready", password)

    def start_service(self) -> None:
        """Start receiver, dispatcher and all that runs beside them."""
        url = f"http://127.0.0.1:{self.settings.receiver_port}/health"
        self._start("service", ["deployments.cli", "receive"], url, {})

    def kill(self, name: str) -> None:
        """SIGKILL to `server` or `service`, whole."""
        child = self._children.pop(name)
        os.killpg(child._process.pid, signal.SIGKILL)
        child.stop(5)

    def stop(self) -> None:
        """Stop what runs."""
        for name in ("service", "server"):
            if name in self._children:
                self._children.pop(name).stop()

    def _start(self, name: str, module: list[str], url: str, secrets: dict[str, str]) -> None:
        environment = child_environment(self.settings) | secrets
        log = self.settings.home / "logs" / f"{name}.log"
        child = Child(name, [sys.executable, "-m", *module], environment, log)
        self._children[name] = child
        child.wait_until(lambda: answers(url), 240)  # also beside others, on two cores

    # -- what they are asked ------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where deliveries go."""
        return self.settings.receiver_url

    def push(self, branch: str, sha: str, message: str = "A change") -> bytes:
        """The body of a push to this repository."""
        return push_body(str(self.bare), branch, sha, message)

    async def deliver(self, client: httpx.AsyncClient, body: bytes, delivery: str = "") -> int:
        """Deliver a signed body; returns the status."""
        headers = signed(body, delivery=delivery)
        return (await client.post(self.url, content=body, headers=headers)).status_code

    def wait_for_dispatch(self, seconds: float) -> None:
        """Until no delivery waits any more."""
        wait_until(lambda: self.inbox.count_waiting() == 0, seconds, "deliveries still wait")

    def prepare(self) -> None:
        """What the server is given: the repository's block, and where its branches lead."""

        async def prepare() -> None:
            block = GitHubRepository(url=str(self.bare), webhook_secret=SecretStr(SECRET))
            await block.save(REPOSITORY)
            commit = {"repository": REPOSITORY, "branch": "*"}
            async with prefect_api() as client:
                flow = await client.create_flow_from_name("pipeline")
                await client.create_deployment(flow, "others", parameters={"commit": commit})

        asyncio.run(prepare())

    async def send_raw(self, content: bytes) -> int:
        """Send bytes to the receiver's port; returns the status, 0 where there was no answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.settings.receiver_port)
        try:
            writer.write(content)
            writer.write_eof()
            async with asyncio.timeout(60):
                line = await reader.readline()
        except OSError:
            return 0
        finally:
            writer.close()
        return int(line.split()[1]) if line.startswith(b"HTTP/") else 0

    def runs(self, *, by_branch: bool = False) -> "Counter[str]":
        """How many runs each commit has, or each commit on each branch, as Prefect says."""
        commits = [run["parameters"]["commit"] for run in asyncio.run(self._runs())]
        return Counter(f"{c['branch']} {c['sha']}" if by_branch else c["sha"] for c in commits)

    async def _runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with prefect_api() as client:
            while page := await client.read_flow_runs(limit=200, offset=len(found)):
                found += [run.model_dump(include={"parameters"}) for run in page]
        return found


@contextmanager
def running_arrivals(settings: SystemSettings, bare: Path) -> Iterator[Arrivals]:
    """Both processes, until the end of the block."""
    arrivals = Arrivals(settings, bare)
    with temporary_settings(client_settings(settings)):
        try:
            arrivals.start_server()
            arrivals.prepare()
            arrivals.start_service()
            yield arrivals
        finally:
            arrivals.stop()


def clients() -> httpx.AsyncClient:
    """A client that opens a connection for each delivery, as GitHub does; without a proxy, and
    patient, since the times are measured.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(limits=limits, timeout=60, trust_env=False)
