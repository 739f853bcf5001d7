"""`samebits demo`: the main job once, end to end, and a check that all of it held."""

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from blocks.prefect_api import prefect_api
from deployments import example
from deployments.demo_stacks import DemoStacks, docker_stacks
from deployments.demo_watch import Load, Seen, Watch
from deployments.settings import SystemSettings
from deployments.system import System
from domain.errors import DemoFailed, SamebitsError

REPORT = Path(".integrations/demo.json")
NEEDED = "HELLO_GREETING"
StacksOf = Callable[[SystemSettings], AbstractContextManager[DemoStacks]]


@dataclass
class Scene:
    """A scene of the demo, and how it went."""

    name: str
    play: Callable[[], Awaitable[None]]
    passed: bool = False
    seconds: float = 0.0
    digest: str = ""
    runs: list[Seen] = field(default_factory=list)
    reason: str = ""


class Demo:
    """The five scenes, on a running system."""

    def __init__(self, stacks: DemoStacks, watch: Watch, work: Path, console: Console) -> None:
        self.stacks, self.watch, self.work, self.console = stacks, watch, work, console
        self.marker = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        self.good = self.digest = ""
        self.scene = Scene("", self._feature)
        self.scenes = [
            Scene("a feature branch is built and tested, nothing is published", self._feature),
            Scene("master is published by digest and serves on stage", self._master),
            Scene("release: prod serves the same digest, nothing is built again", self._release),
            Scene("red tests: nothing is published, stage serves on", self._red),
            Scene("an unhealthy version never serves; retried, only deploy runs", self._unhealthy),
        ]

    async def play(self) -> bool:
        """Play every scene; True if all of them held."""
        for number, scene in enumerate(self.scenes, 1):
            self.scene = scene
            self.console.print(f"\n[bold]{number}. {scene.name}[/]")
            started = time.monotonic()
            try:
                await scene.play()
                scene.passed = True
            except Exception as error:  # noqa: BLE001 - whatever it is, the scene did not hold
                known = isinstance(error, SamebitsError)
                scene.reason = str(error) if known else f"{type(error).__name__}: {error}"
                self.console.print(
                    f"   [red]did not hold:[/] {error}", markup=True, highlight=False
                )
            scene.seconds = time.monotonic() - started
        return all(scene.passed for scene in self.scenes)

    # -- the scenes ---------------------------------------------------------------------------

    async def _feature(self) -> None:
        self._reset()
        self._write("VERSION", f"feature of {self.marker}")
        sha = self._push("feature/hello", "Say hello in another way")
        run = await self._finished(sha, "feature/hello")
        run.must_have("COMPLETED", ["build", "test"], executed=["build", "test"])
        self._must(self.watch.published(sha) is None, "The feature's image was published.")

    async def _master(self) -> None:
        self._write("VERSION", f"good one of {self.marker}")
        self.good = self._push("master", "Say hello better")
        run = await self._finished(self.good, "master")
        everything = ["build", "test", "publish", "deploy"]
        run.must_have("COMPLETED", everything, executed=everything)
        self.digest = self.scene.digest = self.watch.published(self.good) or ""
        self._must(bool(self.digest), "The registry has no image of the commit.")
        await self._must_serve(self.stacks.stage, self.digest, f"good one of {self.marker}")

    async def _release(self) -> None:
        self._push_ref(self.good, "release")
        run = await self._finished(self.good, "release")
        everything = ["build", "test", "publish", "deploy"]
        run.must_have("COMPLETED", everything, executed=["publish", "deploy"])
        self.scene.digest = self.digest
        await self._must_serve(self.stacks.prod, self.digest, f"good one of {self.marker}")

    async def _red(self) -> None:
        self._write(
            "hello.py", self._read("hello.py").replace('f"Hello, {name}!"', 'f"Bye, {name}!"')
        )
        self._write("VERSION", f"red one of {self.marker}")
        sha = self._push("master", "Say goodbye instead", author="Grace Hopper")
        run = await self._finished(sha, "master")
        run.must_have("FAILED", ["build", "test"], executed=["build", "test"])
        self._must(self.watch.published(sha) is None, "The red image was published.")
        await self._must_serve(self.stacks.stage, self.digest, f"good one of {self.marker}")
        await self.watch.told(run.id, "failed", "Grace Hopper", "FAILED (failures=1)")

    async def _unhealthy(self) -> None:
        await self.stacks.give_environment(self.stacks.stage, {})
        self._reset()
        self._write("VERSION", f"needy one of {self.marker}")
        self._write("NEEDS", NEEDED)
        sha = self._push("master", "Say hello as the settings want it")
        with Load(self.stacks.address(self.stacks.stage)) as load:
            run = await self._finished(sha, "master")
            everything = ["build", "test", "publish", "deploy"]
            run.must_have("FAILED", everything, executed=everything)
            await self._must_serve(self.stacks.stage, self.digest, f"good one of {self.marker}")
            await self.watch.told(run.id, "failed", f"The setting {NEEDED} is missing")
            self._say(f"{NEEDED} is added to the stack; the run is retried as the UI's button does")
            published = self.watch.published(sha)
            await self.stacks.give_environment(self.stacks.stage, {NEEDED: "Hello"})
            await self.watch.retry(run.id)
            again = await self._finished(sha, "master", attempt=2)
        again.must_have("COMPLETED", everything, executed=["deploy"])
        self.scene.digest = self.watch.published(sha) or ""
        self._must(self.scene.digest == published, "The digest changed in the retry.")
        await self._must_serve(self.stacks.stage, self.scene.digest, f"needy one of {self.marker}")
        self._say(f"{load.sent} requests to stage meanwhile, {load.failed} failed")
        self._must(load.whole, "The load on stage broke off.")
        self._must(load.failed == 0, f"{load.failed} of {load.sent} requests failed: {load.faults}")

    # -- what the scenes are made of ----------------------------------------------------------

    def _reset(self) -> None:
        """The files of the example as they are shipped, on top of master."""
        example.git("-C", str(self.work), "fetch", "--quiet", "origin")
        example.git("-C", str(self.work), "checkout", "--quiet", "--detach", "origin/master")
        for path in example.SOURCE.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                self._write(str(path.relative_to(example.SOURCE)), path.read_text())

    def _read(self, name: str) -> str:
        return (self.work / name).read_text()

    def _write(self, name: str, text: str) -> None:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _push(self, branch: str, subject: str, author: str = "Ada Lovelace") -> str:
        sha = example.commit(self.work, subject, author)
        self._push_ref(sha, branch)
        return sha

    def _push_ref(self, sha: str, branch: str) -> None:
        force = ["--force"] if branch.startswith("feature/") else []
        self._say(f"git push origin {sha[:8]}:{branch}")
        refspec = f"{sha}:refs/heads/{branch}"
        example.git("-C", str(self.work), "push", "--quiet", *force, "origin", refspec)

    async def _finished(self, sha: str, branch: str, attempt: int = 1) -> Seen:
        run = await self.watch.finished(sha, branch, attempt, self._say)
        if run.id not in [other.id for other in self.scene.runs]:
            self.scene.runs.append(run)
        return run

    async def _must_serve(self, stack: str, digest: str, version: str) -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            answer = (await client.get(self.stacks.address(stack))).text.strip()
        serving = await self.watch.serving(stack)
        self._must(serving == digest, f"{stack} runs {serving}, not {digest}.")
        self._must(version in answer, f"{stack} answers {answer!r}, not as {version!r}.")
        self._say(f"{stack} runs {digest[:19]}… and answers: {answer}")

    def _say(self, text: str) -> None:
        self.console.print(f"   {text}", highlight=False, markup=False)

    @staticmethod
    def _must(held: bool, otherwise: str) -> None:  # noqa: FBT001 - it reads as a sentence
        if not held:
            raise DemoFailed(otherwise)


def show(demo: Demo) -> None:
    """The tables at the end, and the report."""
    scenes = Table("", "scene", "held", "seconds", "steps", "digest")
    runs = Table("", "run in the Prefect UI", box=None)
    for number, scene in enumerate(demo.scenes, 1):
        steps = [f"{n} {s:.1f} s" for run in scene.runs for n, s in run.seconds.items()]
        held = "[green]yes[/]" if scene.passed else "[red]no[/]"
        cells = (scene.name, held, f"{scene.seconds:.1f}", "\n".join(steps), scene.digest[:19])
        scenes.add_row(str(number), *cells, end_section=True)
        for run in scene.runs:
            runs.add_row(str(number), run.url)
    demo.console.print(scenes)
    demo.console.print(runs)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(
        json.dumps({"scenes": [_row(scene) for scene in demo.scenes]}, indent=2) + "\n"
    )


def _row(scene: Scene) -> dict[str, Any]:
    return {
        "name": scene.name,
        "passed": scene.passed,
        "seconds": round(scene.seconds, 1),
        "digest": scene.digest,
        "runs": [run.url for run in scene.runs],
        **({"reason": scene.reason} if scene.reason else {}),
    }


def run_demo(settings: SystemSettings, stacks_of: StacksOf = docker_stacks) -> bool:
    """Start the system, play the demo on its stacks, stop it; True if all of it held."""
    console = Console()
    REPORT.unlink(missing_ok=True)
    console.print("Starting the system")
    with ExitStack() as stack:
        # The demo shows its own pushes, and no run beside them.
        example.take_as_known(settings)
        stack.enter_context(System(settings, console.print).running())
        stacks = stack.enter_context(stacks_of(settings))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        example.git("clone", "--quiet", str(example.bare_repository(settings)), str(work))

        async def play() -> Demo:
            async with prefect_api() as client:
                demo = Demo(stacks, Watch(settings, client), work, console)
                await demo.play()
                return demo

        demo = asyncio.run(play())
        console.print("\nStopping the system")
    show(demo)
    held = sum(scene.passed for scene in demo.scenes)
    print(f"demo: {held} of {len(demo.scenes)}")
    return held == len(demo.scenes)
