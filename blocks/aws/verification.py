"""What a service of Amazon ECS really runs, read back from its tasks."""

import time
from typing import NamedTuple

from blocks.aws.ecs_service import Description, EcsService, is_daemon, rollout_state
from domain.errors import DeployFailed, SamebitsError
from domain.image import PublishedImage, Serving

POLL_SECONDS = 2.0
SETTLES_SECONDS = 300.0
"""How long the tasks may take to be as they are to be, once a deployment is over"""


class _Wrong(NamedTuple):
    why: str
    heals: bool = True


def verified(
    service: EcsService,
    image: PublishedImage,
    revision: str = "",
    least_tasks: int = 1,
    timeout_seconds: float = 0,
) -> Serving:
    """What the service runs: its revision and each of its running tasks must be the image.

    `revision` is the one that was deployed; without it, it is the one that the service has now.
    `timeout_seconds` is how long a deployment may take.
    Raises DeployFailed for anything else, whatever the deployment said.
    """
    if wrong := what_is_wrong(service, image, revision, least_tasks, timeout_seconds):
        raise DeployFailed(
            f"{service} does not run {image.digest} after the deploy.",
            why=wrong,
            hint=f"{serves_now(service)} Retry the run.",
        )
    return Serving(digest=image.digest, sha=image.commit.sha)


def what_is_wrong(
    service: EcsService,
    image: PublishedImage,
    revision: str,
    least_tasks: int,
    timeout_seconds: float,
) -> str:
    """What is still wrong once the service had time to settle; empty where it runs the image."""
    deadline = time.monotonic() + _settles_seconds(service, timeout_seconds)
    while wrong := _wrong(service, image, revision, least_tasks):
        if not wrong.heals or time.monotonic() > deadline:
            return wrong.why
        time.sleep(POLL_SECONDS)
    return ""


def _settles_seconds(service: EcsService, timeout_seconds: float) -> float:
    """With early success criteria, tasks are replaced also after a deployment has ended well.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DeploymentEarlySuccessCriteria.html
    """
    settings = service.describe().get("deploymentConfiguration", {})
    early = settings.get("earlySuccessCriteria", {}).get("enable", False)
    return max(SETTLES_SECONDS, timeout_seconds) if early else SETTLES_SECONDS


def serves_now(service: EcsService) -> str:
    """Which digest serves now, in a sentence; that it cannot be read hides no other error.

    That is what the tasks run: after a failed deployment the service may be set to another image.
    """
    try:
        found = service.served()
        stands = service.image_of(service.describe()["taskDefinition"])
    except SamebitsError as error:
        return f"What serves now could not be read: {error.what}"
    named = " and ".join(_named(serving) for serving in found) or "Nothing"
    verb = "serve" if len(found) > 1 else "serves"
    other = stands.digest not in [serving.digest for serving in found]
    set_to = f"; the service is set to {_named(stands)}" if other else ""
    return f"{named} {verb} now{set_to}."


def _named(serving: Serving) -> str:
    commit = f" (commit {serving.sha[:8]})" if serving.sha else ""
    return f"{serving.digest or 'An image without a digest'}{commit}"


def _wrong(
    service: EcsService, image: PublishedImage, revision: str, least_tasks: int
) -> _Wrong | None:
    """What is not as it is to be; None where the service runs the image, and nothing else."""
    now = service.describe()
    set_to = now["taskDefinition"]
    stands = service.image_of(set_to).digest
    if set_to != (revision or set_to) or stands != image.digest:
        return _Wrong(f"Its task definition is {set_to}, with {stands}.")
    tasks = service.running()
    for task in tasks:
        if wrong := _wrong_task(service, task, set_to, image):
            return wrong
    wanted = max(now["desiredCount"], 1 if is_daemon(now) else least_tasks)
    if len(tasks) < wanted:
        return _Wrong(f"{len(tasks)} of its {wanted} tasks run.")
    if (state := rollout_state(now)) not in ("", "COMPLETED"):
        return _Wrong(f"ECS says that its rollout is {state}.")
    return None


def _wrong_task(
    service: EcsService, task: Description, revision: str, image: PublishedImage
) -> _Wrong | None:
    name, of = task["taskArn"], task["taskDefinitionArn"]
    if of != revision:
        digests = ", ".join(c.get("imageDigest", "no digest") for c in task["containers"])
        return _Wrong(f"The task {name} still runs {of}, with {digests}.")
    digest = service.runs(task).digest
    if digest != image.digest:
        runs = digest or "an image without a digest"
        return _Wrong(f"The task {name} runs {runs}.", heals=not digest)
    unhealthy = task.get("healthStatus") == "UNHEALTHY"
    return _Wrong(f"The task {name} is unhealthy.") if unhealthy else None
