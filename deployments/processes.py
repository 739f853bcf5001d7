"""Child processes that end with their parent."""

import ctypes
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from domain.errors import PortTaken, StartFailed

_PR_SET_PDEATHSIG = 1
# This host's servers speak plain HTTP. The world's certificates take 20 ms to load, at each look.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Child:
    """A program in a session of its own, with its output in a file."""

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.log = name, log
        self._started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(argv),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_child_setup,  # noqa: PLW1509 - no thread runs yet that holds a lock
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def age_seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it is ready; raises StartFailed, with the end of its log, if it is not."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise self._failed(f"ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready within {seconds:g} s")
            time.sleep(0.2)

    def stop(self, seconds: float = 15) -> None:
        """Ask it to end, then ask what it left in its session; what does not end is killed."""
        self._process.terminate()
        self._wait_while(lambda: self.running, seconds)
        self._signal(signal.SIGTERM)
        self._wait_while(lambda: self._signal(0), seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> bool:
        """Send a signal to all of its session; False if nobody is left there."""
        self._process.poll()
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    @staticmethod
    def _wait_while(busy: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while busy() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _failed(self, what: str) -> StartFailed:
        lines = self.log.read_text(errors="replace").splitlines()
        return StartFailed(
            f"{self.name} {what}.", hint=f"Its whole log is {self.log}; the last lines:", log=lines
        )


def _child_setup() -> None:
    # A parent that was started in the background of a script has SIGINT ignored, and hands that on:
    # Prefect's worker then does not stop.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def answers(url: str) -> bool:
    """Whether a server of this host answers well."""
    try:
        with httpx.Client(trust_env=False, timeout=2, verify=_NO_CERTIFICATES) as client:
            return client.get(url).is_success
    except httpx.HTTPError:
        return False


def check_port(port: int, what: str, setting: str) -> None:
    """Raises PortTaken if somebody listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(
                f"Port {port} is taken, and {what} is to listen there.",
                why=error.strerror or "",
                hint=f"Stop the other program, or choose another port: {setting}=… make up",
            ) from None
