"""The Docker engine."""

from collections.abc import Callable
from typing import TypeVar

from blocks.engine import About, DockerHost, Engine
from deployments.checks.checking import Scene, in_thread, of_error
from domain.errors import EngineUnavailable
from domain.health import Finding, failed, ok, warning

Answer = TypeVar("Answer")
ENGINE_CHECK = "engine"


async def ask(host: DockerHost, question: Callable[[Engine], Answer]) -> Answer:
    """The answer of an engine to a question."""

    def asking() -> Answer:
        with Engine(host) as engine:
            return question(engine)

    return await in_thread(asking)


async def check_engine(scene: Scene, host: DockerHost) -> list[Finding]:
    """Whether it answers, and builds as this system does."""
    try:
        about = await ask(host, lambda engine: engine.about())
    except EngineUnavailable as error:
        if scene.here or host.base_url:
            return [of_error(ENGINE_CHECK, error)]
        said = f"None answers on this host. {error.why}"
        return [warning(ENGINE_CHECK, said, "A host with a worker needs one; others do not.")]
    return [judge_engine(about)]


def judge_engine(about: About) -> Finding:
    """How an engine stands that answers."""
    said = f"{about.version}, {about.storage_driver}"
    if not about.buildkit:
        return failed(
            ENGINE_CHECK, f"{said}, without BuildKit.", "Use Docker 20.10 or later, on Linux."
        )
    if about.storage_driver == "vfs":
        return warning(
            ENGINE_CHECK,
            f"{said}: each layer is a whole copy, which is slow and fills the disk.",
            "Use overlay2: https://docs.docker.com/engine/storage/drivers/select-storage-driver/",
        )
    return ok(ENGINE_CHECK, f"{said}, BuildKit")
