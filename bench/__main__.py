"""Measure, print, and write .integrations/bench.json.

usage: python -m bench [quick]
"""

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
from prefect.settings import temporary_settings
from rich.console import Console
from rich.table import Table

from bench.history import grow
from bench.numbers import Burst, Result, Sample, idle_for, write
from bench.project import Project, project
from bench.pushes import Repository
from bench.scripted import buildbot, floor
from bench.timeline import Part, read_trace, svg, table
from blocks.engine import DockerHost, Engine
from blocks.prefect_api import prefect_api, read_steps, step_name
from deployments import host_images
from deployments.engine_start import running_engine
from deployments.environment import client_settings
from deployments.settings import SystemSettings
from domain.errors import SamebitsError
from tests.conftest import free_port

REPORT, PICTURE = Path(".integrations/bench.json"), Path(".integrations/timeline.svg")
BUILDBOT = Path(".tools/buildbot/bin/buildbot")
_FLOOR, _OURS, _BUILDBOT = "webhook + script (the floor)", "samebits", "Buildbot 4.3"
_MOST_ROWS = 25
_IDLE_SECONDS = 5.0
_PROMOTED = 3
"""Of so many pipelines, the last is promoted"""
_BROKEN_OFF = (
    SamebitsError,
    TimeoutError,
    RuntimeError,
    httpx.HTTPError,
    subprocess.SubprocessError,
)
console = Console(width=110)


class Contender(Protocol):
    """A system that is measured."""

    def pipeline(self, repository: Repository) -> Sample: ...
    def burst(self, repository: Repository, number: int) -> Burst: ...
    def processes(self) -> list[int]: ...


def main(*, quick: bool) -> None:
    """All of it; quickly three pipelines, a small burst, and nothing of how cost grows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        stack.enter_context(running_engine(folder / "dockerd.log"))
        with Engine(DockerHost()) as engine:
            host_images.ensure_images(engine)
        size = {"pipelines": 3, "burst": 5} if quick else {"pipelines": 10, "burst": 50}
        report: dict[str, Any] = {"machine": machine(), **size}
        report["systems"] = compare(folder, **size)
        if not quick:
            report["growth"] = grow(folder, settings_in, console.print)
    write(REPORT, report)
    console.print(f"\nWritten: {REPORT}, {PICTURE}")


def compare(folder: Path, pipelines: int, burst: int) -> dict[str, Any]:
    """The three systems, alternating; each pipeline, then the bursts, then nothing."""
    settings = settings_in(folder / "ours")
    with contenders(folder, settings) as (ours, all_of_them):
        repository = Repository(ours.repository, folder / "work")
        results = {name: Result() for name in all_of_them}
        for contender in all_of_them.values():  # the first one of each warms caches
            contender.pipeline(repository)
        ours.promotion(repository)
        promotions = []
        for number in range(1, pipelines + 1):
            for name, contender in all_of_them.items():
                results[name].samples.append(contender.pipeline(repository))
            console.print(f"  pipeline {number}: " + _line(results))
            if number % _PROMOTED == 0:
                promotions.append(ours.promotion(repository))
        show_timeline(ours)
        idle = idle_for(_IDLE_SECONDS, {n: one.processes() for n, one in all_of_them.items()})
        for name, contender in all_of_them.items():
            results[name].idle = idle[name]
            results[name].burst = contender.burst(repository, burst)
    report = {name: result.report(results[_FLOOR]) for name, result in results.items()}
    report[_OURS]["promotion_s"] = sorted(round(seconds, 2) for seconds in promotions)
    show(report)
    return report


@contextmanager
def contenders(
    folder: Path, settings: SystemSettings
) -> Iterator[tuple[Project, dict[str, Contender]]]:
    """All of them, running, on one engine, registry and repository."""
    registry = f"127.0.0.1:{settings.registry_port}"
    with ExitStack() as stack:
        for name in ("ours", "floor", "buildbot"):
            (folder / name).mkdir(exist_ok=True)
        ours = stack.enter_context(project(settings, folder / "ours"))
        scripted = {
            _FLOOR: stack.enter_context(
                floor(ours.repository, folder / "floor", f"{registry}/floor", free_ports())
            ),
            _BUILDBOT: stack.enter_context(
                buildbot(
                    ours.repository,
                    folder / "buildbot",
                    f"{registry}/buildbot",
                    free_ports(),
                    BUILDBOT.absolute(),
                )
            ),
        }
        ours.wait_until_up()  # the others start meanwhile
        yield ours, {_FLOOR: scripted[_FLOOR], _OURS: ours, _BUILDBOT: scripted[_BUILDBOT]}


def settings_in(home: Path) -> SystemSettings:
    """A system of its own, on free ports."""
    (prefect, receiver), (registry, stage), (prod, _) = free_ports(), free_ports(), free_ports()
    return SystemSettings(
        home=home / "home",
        name=f"bench-{os.getpid()}-{home.name.lower()}",
        prefect_port=prefect,
        receiver_port=receiver,
        registry_port=registry,
        stage_port=stage,
        prod_port=prod,
        # What is pushed for the others would else be found, and built, in the middle of it.
        reconcile_seconds=86_400,
    )


def free_ports() -> tuple[int, int]:
    """Two ports of 127.0.0.1 that nobody listens on."""
    return free_port(), free_port()


def machine() -> str:
    """What it was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores, python = os.cpu_count(), platform.python_version()
    return f"{cores} cores, {memory:.0f} GiB, {platform.system()}, Python {python}"


def show(report: dict[str, Any]) -> None:
    """The table of the README."""
    shown = Table("system", "first step", "whole", "of the floor", "burst", "idle")
    for name, row in report.items():
        burst, idle = row["burst"], row["idle"]
        shown.add_row(
            name,
            f"{row['first_step_s']['median']:.2f} s (p95 {row['first_step_s']['p95']:.2f})",
            f"{row['whole_s']['median']:.2f} s",
            f"{row['ratio']['median']:.2f}",
            f"{burst['finished']} of {burst['sent']} in {burst['drain_s']:.1f} s, "
            f"{burst['most_mib']:.0f} MiB",
            f"{idle['mib']:.0f} MiB, {idle['cpu_percent']:.1f} %",
        )
    console.print(shown)
    console.print(f"promotion to serving: {report[_OURS]['promotion_s']} s")


def _line(results: dict[str, Result]) -> str:
    last = {name: result.samples[-1] for name, result in results.items()}
    return ", ".join(f"{n} {s.first_step_s:.2f} / {s.whole_s:.2f} s" for n, s in last.items())


def show_timeline(ours: Project) -> None:
    """Where the time of the last run went."""
    parts = asyncio.run(_parts(ours))
    whole = max(part.start + part.seconds for part in parts)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(svg(parts, whole))
    shown = Table("process", "asks", "times", "ms in all")
    for lane, what, times, seconds in table(parts)[:_MOST_ROWS]:
        shown.add_row(lane, what, str(times), f"{seconds * 1000:.0f}")
    console.print(shown)


async def _parts(ours: Project) -> list[Part]:
    assert ours.last is not None
    with temporary_settings(client_settings(ours.settings)):
        async with prefect_api() as client:
            states = await client.read_flow_run_states(ours.last.id)
            steps = await read_steps(client, ours.last.id)
    at = {state.name: state.timestamp.timestamp() - ours.began for state in states}
    parts = [
        Part("received", "step", "dispatched", 0, at["Scheduled"]),
        Part("worker", "step", "taken", at["Scheduled"], at["Pending"] - at["Scheduled"]),
        Part("worker", "step", "started", at["Pending"], at["Running"] - at["Pending"]),
    ]
    for step in steps:
        if step.start_time and step.end_time:
            start = step.start_time.timestamp()
            took = step.end_time.timestamp() - start
            parts.append(Part("run", "step", step_name(step), start - ours.began, took))
    ended = ours.began + at["Completed"] + 0.2
    parts += read_trace(ours.trace, ours.began, ended, ours.lanes())
    return sorted(parts, key=lambda part: part.start)


if __name__ == "__main__":
    if not shutil.which("curl"):
        sys.exit("curl is needed: apt-get install curl")
    try:
        main(quick="quick" in sys.argv[1:])
    except _BROKEN_OFF as error:
        sys.exit(
            f"The benchmark was broken off: {error}\nWhat it had started is stopped. Run it again."
        )
