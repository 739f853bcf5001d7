"""What is measured, and how it is summed up."""

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One pipeline: seconds from the webhook's first byte to its first step, and to its end."""

    first_step_s: float
    whole_s: float


@dataclass(frozen=True)
class Burst:
    """Many pushes at once, with nothing to do: how many had their run, and in how long."""

    sent: int
    finished: int
    drain_s: float
    most_mib: float = 0.0


@dataclass(frozen=True)
class Idle:
    """Memory (proportional set size) and share of one core of all processes, while all is quiet."""

    mib: float
    cpu_percent: float


@dataclass
class Result:
    """All of one system."""

    samples: list[Sample] = field(default_factory=list)
    burst: Burst | None = None
    idle: Idle | None = None

    def report(self, floor: "Result") -> dict[str, Any]:
        """As it stands in bench.json; `ratio` is of each sample to the floor's one beside it."""
        pairs = list(zip(self.samples, floor.samples, strict=True))
        report: dict[str, Any] = {
            "first_step_s": _summary(s.first_step_s for s in self.samples),
            "whole_s": _summary(s.whole_s for s in self.samples),
            "ratio": _summary(mine.whole_s / its.whole_s for mine, its in pairs),
        }
        if self.burst and floor.burst:
            ratio = {"drain_ratio": round(self.burst.drain_s / floor.burst.drain_s, 2)}
            report["burst"] = asdict(self.burst) | ratio
        if self.idle:
            report["idle"] = asdict(self.idle)
        return report


def _summary(values: Iterable[float]) -> dict[str, float]:
    found = sorted(values)
    last = min(len(found) - 1, round(0.95 * len(found)))
    return {"median": round(statistics.median(found), 3), "p95": round(found[last], 3)}


def memory_mib(pids: Iterable[int]) -> float:
    """What these processes take; what several share is counted once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total / 1024, 1)


def idle_for(seconds: float, systems: Mapping[str, list[int]]) -> dict[str, Idle]:
    """How much each of these systems, given by its processes, takes while nothing happens.

    A process that ends meanwhile is that of a run which was done.
    """
    before = {name: _seconds(pids) for name, pids in systems.items()}
    began = time.monotonic()
    time.sleep(seconds)
    after = {name: _seconds(pids) for name, pids in systems.items()}
    passed = time.monotonic() - began
    took = {
        name: sum(now - before[name].get(pid, now) for pid, now in each.items())
        for name, each in after.items()
    }
    return {
        name: Idle(memory_mib(pids), round(100 * took[name] / passed, 1))
        for name, pids in systems.items()
    }


def _seconds(pids: list[int]) -> dict[int, float]:
    """The processor's time that each of these has had; those that have ended are left out."""
    found = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def descendants(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def write(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
