"""What the tests have a forked process do: it spoils all it can reach, and says what it found."""

import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from prefect.events.related import RESOURCE_CACHE

import flows.pipeline

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
    "handlers": str(signal.getsignal(signal.SIGTERM)),
}
Path("found.json").write_text(json.dumps(found))

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
    case "wait":
        signal.pause()
