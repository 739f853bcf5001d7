"""The demo, played on the tests' own system."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from blocks.prefect_api import prefect_api
from deployments import example
from deployments.demo import Demo
from deployments.demo_stacks import docker_stacks
from deployments.demo_watch import Watch
from deployments.system import System

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


async def test_the_five_scenes_of_the_demo_hold(system: System, tmp_path: Path) -> None:
    said = io.StringIO()
    work = tmp_path / "work"
    example.git("clone", "--quiet", str(example.bare_repository(system.settings)), str(work))
    async with prefect_api() as client:
        watch = Watch(system.settings, client)
        with docker_stacks(system.settings) as stacks:
            demo = Demo(stacks, watch, work, Console(file=said, width=120))
            assert await demo.play(), said.getvalue()
    assert [bool(scene.digest) for scene in demo.scenes] == [False, True, True, False, True]
    assert demo.scenes[1].digest == demo.scenes[2].digest
