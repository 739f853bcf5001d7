"""The steps: one task each, with its retries and its results, and one call into a room."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, cast

from prefect import task
from prefect.cache_policies import INPUTS, NO_CACHE, RUN_ID
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Cancelled, Completed
from prefect.tasks import Task, exponential_backoff

from blocks.contracts import ImageRegistry, Turn
from blocks.disk import check_space
from blocks.engine import DockerHost, Engine, Limits, RunResult
from blocks.home import data_home, least_free_mib, one_at_a_time, system_name
from blocks.junit import junit_table, parse_junit
from blocks.limits import alone
from blocks.loading import load, read_ahead
from blocks.named import registry_of, stack_called
from blocks.prefect_api import (
    record_image,
    recorded_image,
    run_log,
    show_markdown,
)
from blocks.prefect_run import begin_to_deploy, deploys_to, is_api_away, run_id
from blocks.repository import GitHubRepository
from domain.commit import Commit
from domain.errors import (
    AlreadyPublished,
    ImageVanished,
    SamebitsError,
    Superseded,
    TagTaken,
    TestsFailed,
    TestsTimedOut,
)
from domain.image import (
    KEY_LABEL,
    REVISION_LABEL,
    SOURCE_LABEL,
    BuiltImage,
    PublishedImage,
    TestedImage,
    same_bits,
)
from domain.marks import SUPERSEDED
from domain.settings import BuildSettings, TestSettings
from flows.admission import only_forward, with_reason

ENGINE = "default"
"""Name of the engine's block, which every repository shares."""

_MOST_LOG_LINES = 20_000
_LEASE_SECONDS = 60
"""How long a stack stays locked after the death of whoever deployed to it."""


def can_heal(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a second try makes sense: for an error that says so, or if Prefect's API is away."""
    error = state.result(raise_on_failure=False, _sync=True)  # type: ignore[call-overload]
    return is_api_away(error) or (isinstance(error, SamebitsError) and error.retryable)


HEALS: dict[str, Any] = {
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": can_heal,
}
# A run that is retried finds the results of its own finished steps, and never makes them anew.
KEPT: dict[str, Any] = {"persist_result": True, "result_serializer": "json"}


def build(commit: Commit, settings: BuildSettings, *, trusted: bool) -> BuiltImage:
    """The image of exactly that commit; one that was built from the same content is taken again."""
    state = _build(commit, settings, trusted=trusted, return_state=True)
    return cast("BuiltImage", state.result(_sync=True))  # type: ignore[call-overload]


@task(name="build", cache_policy=RUN_ID + INPUTS, **KEPT, **HEALS)
def _build(commit: Commit, settings: BuildSettings, *, trusted: bool) -> State[Any] | BuiltImage:
    read_ahead(commit.repository, ENGINE)
    source = load(GitHubRepository, commit.repository)
    log = _streamed_log()
    revision = source.find(commit)
    commit = revision.commit
    key = settings.key(commit.repository, revision.tree, trusted=trusted)
    name = f"samebits-build/{commit.repository}"
    with _engine() as engine, one_at_a_time(f"build-{key}"):
        image_id = engine.image_id(f"{name}:{key}")
        if image_id is None and trusted:
            image_id = _published_before(engine, source, commit, key)
        if image_id:
            log(f"The same content was built before: {image_id}")
            engine.tag(image_id, name, key)  # taken anew: prune goes by this
            return Completed(name="Cached", data=BuiltImage(commit=commit, image_id=image_id))
        labels = {
            SOURCE_LABEL: source.public_url,
            REVISION_LABEL: commit.sha,
            "org.opencontainers.image.created": revision.committed,
            KEY_LABEL: key,
        }
        check_space([engine.folder(), data_home()], least_free_mib())
        settings = settings.with_cache_of(commit.repository, trusted=trusted)
        with source.archive(commit.repository, commit.sha) as archive:
            image_id = engine.build(archive, settings, labels, f"{name}:{key}", log)
    return BuiltImage(commit=commit, image_id=image_id)


@task(name="test", cache_policy=INPUTS - "commit", **KEPT, **HEALS)
def _test(image_id: str, settings: TestSettings, commit: Commit) -> str:
    """Run the tests in the image; green is an exit code of 0. Returns the image ID."""
    limits = Limits(settings.memory_mib, settings.processes, settings.timeout_seconds)
    with _engine() as engine:
        _ensure_present(engine, BuiltImage(commit=commit, image_id=image_id))
        result = engine.run(
            image_id, settings.command, limits, _labels("test"), _streamed_log(), settings.junit
        )
    if result.file and (cases := parse_junit(result.file)):
        show_markdown("tests", junit_table(cases), "What the tests said (JUnit)")
    _check(result, settings)
    return image_id


def run_tests(image: BuiltImage, settings: TestSettings) -> TestedImage:
    """The same image, if its tests are green. Keyed by image and command, whoever built it."""
    return TestedImage(commit=image.commit, image_id=_test(image.image_id, settings, image.commit))


@task(name="publish", cache_policy=RUN_ID + INPUTS, **KEPT, **HEALS)
def publish(image: TestedImage) -> PublishedImage:
    """Push the tested image under the full SHA, and see that the registry holds just that one."""
    commit, log = image.commit, run_log()
    registry = registry_of(load(GitHubRepository, commit.repository))
    repository = registry.repository(commit.repository)
    found = registry.manifest(repository, commit.sha)
    if found is None:
        _push(image, registry, repository)
        found = registry.manifest(repository, commit.sha)
    elif not found.holds(image.image_id):
        raise AlreadyPublished(
            f"Commit {commit.sha} is published already, as {found.digest}, and that is another "
            f"image than {image.image_id}, which was tested now.",
            why="It was built again with other settings, or on another engine.",
            hint="Redeploy the published image, or push a new commit.",
        )
    if found is None:
        raise ImageVanished(
            f"The registry does not know {repository}:{commit.sha} after the push.",
            why="It took the push, and has lost it or shows another user nothing.",
            hint="Check that user and address in the registry's block are right, then retry.",
        )
    published = same_bits(image, found, repository)
    record_image(published)
    log(f"Published {published.reference}")
    return published


def _push(image: TestedImage, registry: ImageRegistry, repository: str) -> None:
    commit, log = image.commit, run_log()
    with _engine() as engine:
        _ensure_present(engine, BuiltImage(commit=commit, image_id=image.image_id))
        log(f"Pushing {image.image_id} as {repository}:{commit.sha}")
        engine.tag(image.image_id, repository, commit.sha)
        try:
            engine.push(repository, commit.sha, registry.auth())
        except TagTaken as error:
            log(f"Another run was faster; what it pushed is compared: {error}")


def deploy(image: PublishedImage, stack: str, reason: str | None = None) -> State[str]:
    """Run the published image on a stack, by digest. Returns the state: completed or superseded.

    Without a `reason` the stack only goes forward in git's history; with one, even an empty one, it
    is a person's wish.
    """
    state: State[Any] = _deploy(image, stack, reason, return_state=True)
    # A state of its own: of one that is a step's, Prefect would only count the result.
    if state.name == SUPERSEDED:
        return Cancelled(name=SUPERSEDED, message=state.message)
    return Completed(data=state.result(_sync=True))  # type: ignore[call-overload]


@task(name="deploy", cache_policy=NO_CACHE, **HEALS)
def _deploy(image: PublishedImage, stack: str, reason: str | None) -> State[Any]:
    """One deploy to a stack at a time; the state says what the registry's scan has found."""
    commit, log = image.commit, run_log()
    read_ahead(commit.repository, stack)
    room = stack_called(stack)
    room.get_ready(stack)
    source = load(GitHubRepository, commit.repository)
    registry = registry_of(source)
    registry.admit(image, log)
    admit = only_forward(source, commit) if reason is None else with_reason(source, commit, reason)
    try:
        with _turn_on(stack, log), _meanwhile(begin_to_deploy) as begun:
            serving = room.deploy(stack, image, registry, Turn(run_id(), admit, begun), log)
            begun()  # a stack that an earlier try has changed was not asked
            registry.mark_deployed(image, stack)
    except Superseded as error:
        log(f"{stack} stays as it is: {error}")
        return Cancelled(name=SUPERSEDED, message=str(error))
    log(f"{stack} serves {serving.digest} (commit {serving.sha})")
    findings = registry.findings(image)
    if findings:
        show_markdown("scan", findings.markdown(), f"The registry's scan of {image.reference}")
    return Completed(message=findings and f"scan: {findings.summary}", data=serving.digest)


def limit_of(stack: str) -> str:
    """The name of Prefect's limit, by which one deploy at a time is on a stack."""
    return f"stack-{stack}"


@contextmanager
def _turn_on(stack: str, log: Callable[[str], None]) -> Iterator[None]:
    """Have the stack alone; a holder that died has it for up to a minute more."""

    def waits() -> None:
        holder = deploys_to(stack)
        log(f"Waiting for the turn on {stack}: {repr(holder) if holder else 'another run'} has it")

    with alone(limit_of(stack), _LEASE_SECONDS, lambda: bool(deploys_to(stack)), waits):
        yield


@contextmanager
def _meanwhile(write: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Begin to do this; what is given returns once it is done, or raises what it raised."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield thread.submit(copy_context().run, write).result


def _engine() -> Engine:
    return Engine(load(DockerHost, ENGINE))


def _labels(role: str) -> dict[str, str]:
    return {
        "samebits.role": role,
        "samebits.system": system_name(),
        "samebits.run": run_id(),
    }


def _streamed_log() -> Callable[[str], None]:
    """The run's log, for output of code under test: cut off where it would drown the server."""
    log, told = run_log(), 0

    def tell(line: str) -> None:
        nonlocal told
        told += 1
        if told <= _MOST_LOG_LINES:
            log(line)
        elif told == _MOST_LOG_LINES + 1:
            log(f"… more than {_MOST_LOG_LINES} lines; the rest is not kept")

    return tell


def _published_before(
    engine: Engine, source: GitHubRepository, commit: Commit, key: str
) -> str | None:
    """The image of this commit from the registry, where it was built from the same content."""
    registry = registry_of(source)
    repository = registry.repository(commit.repository)
    manifest = registry.manifest(repository, commit.sha)
    if manifest is None:
        return None
    if recorded_image(manifest.digest, commit.sha) is None:
        return None  # whoever pushed it, it was no passed pipeline
    reference = f"{repository}@{manifest.digest}"
    engine.pull(reference, registry.auth())
    if engine.image_labels(reference).get(KEY_LABEL) != key:
        return None
    return engine.image_id(reference)


def _ensure_present(engine: Engine, image: BuiltImage) -> None:
    """Have the image on the engine; from the registry by digest where it has gone from there."""
    if engine.image_id(image.image_id):
        engine.take_again(image.image_id)
        return
    registry = registry_of(load(GitHubRepository, image.commit.repository))
    repository = registry.repository(image.commit.repository)
    manifest = registry.manifest(repository, image.commit.sha)
    if manifest is None or not manifest.holds(image.image_id):
        raise ImageVanished(
            f"The image {image.image_id} is gone from the engine and was not published.",
            why="Somebody removed it after it was built.",
            hint="Start a new run for this commit: a retry never builds again.",
        )
    engine.pull(f"{repository}@{manifest.digest}", registry.auth())


def _check(result: RunResult, settings: TestSettings) -> None:
    command = " ".join(settings.command)
    if result.timed_out:
        raise TestsTimedOut(
            f"`{command}` took longer than {settings.timeout_seconds} s and was stopped.",
            hint="Make it faster, or raise settings.test.timeout_seconds in prefect.yaml.",
            log=result.tail,
        )
    if result.exit_code != 0:
        memory = (
            f" It ran out of memory ({settings.memory_mib} MiB)." if result.out_of_memory else ""
        )
        raise TestsFailed(
            f"`{command}` ended with exit code {result.exit_code}.{memory}",
            hint="The last lines of its log:",
            log=result.tail,
        )
