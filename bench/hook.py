"""The floor: a webhook that runs the script, as many at once as there are cores.

usage: python -m bench.hook PORT, with what steps.sh takes in the environment
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCRIPT = Path(__file__).parent / "steps.sh"
WHOLE = ("begin", "clone", "build", "run_tests", "publish", "deploy", "tell")
NOTHING = ("begin", "tell")
_turns = threading.Semaphore(os.cpu_count() or 1)


def run(branch: str, steps: tuple[str, ...]) -> None:
    """One pipeline."""
    with _turns, tempfile.TemporaryDirectory() as work:
        variables = {"BRANCH": branch, "WORK": f"{work}/clone"}
        subprocess.run([SCRIPT, *steps], env=os.environ | variables, check=True)


class Hook(BaseHTTPRequestHandler):
    """Takes GitHub's deliveries, unsigned."""

    def do_POST(self) -> None:
        """Start a pipeline for the branch of the push."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        branch = json.loads(body)["ref"].removeprefix("refs/heads/")
        steps = NOTHING if branch.startswith("burst/") else WHOLE
        threading.Thread(target=run, args=(branch, steps)).start()
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()
