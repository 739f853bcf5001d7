"""What a service of Amazon ECS really runs, read back from its tasks."""

import time

from blocks.aws.ecs_service import Description, EcsService
from domain.errors import DeployFailed, SamebitsError
from domain.image import PublishedImage, Serving

POLL_SECONDS = 2.0
SETTLES_SECONDS = 120.0
"""How long the tasks of the last revision may take to end, once a deployment is over"""


def verified(service: EcsService, image: PublishedImage, least_tasks: int = 1) -> Serving:
    """What the service runs: its revision and each of its running tasks must be the image.

    Raises DeployFailed for anything else, whatever the deployment said.
    """
    deadline = time.monotonic() + SETTLES_SECONDS
    while wrong := _wrong(service, image, least_tasks):
        if time.monotonic() > deadline:
            raise DeployFailed(
                f"{service} does not run {image.digest} after the deploy.",
                why=wrong,
                hint=f"{serves_now(service)} Retry the run.",
            )
        time.sleep(POLL_SECONDS)
    return Serving(digest=image.digest, sha=image.commit.sha)


def serves_now(service: EcsService) -> str:
    """Which digest serves now, in a sentence; that it cannot be read hides no other error."""
    try:
        now = service.describe()
        stands = service.image_of(now["taskDefinition"])
    except SamebitsError as error:
        return f"What serves now could not be read: {error.what}"
    if not now["runningCount"]:
        return f"Nothing serves now; the service is set to {stands.digest}."
    commit = f" (commit {stands.sha[:8]})" if stands.sha else ""
    return f"{stands.digest}{commit} serves now."


def _wrong(service: EcsService, image: PublishedImage, least_tasks: int) -> str:
    """What is not as it is to be; empty where the service runs the image, and nothing else."""
    now = service.describe()
    revision = now["taskDefinition"]
    stands = service.image_of(revision).digest
    if stands != image.digest:
        return f"Its task definition is {revision}, with {stands}."
    container = service.container(service.definition(revision))
    tasks = [t for t in service.tasks("RUNNING") if t["lastStatus"] == "RUNNING"]
    for task in tasks:
        digest = _digest(task, container)
        if digest != image.digest:
            return f"The task {task['taskArn']} runs {digest or 'an image without a digest'}."
    wanted = max(now["desiredCount"], least_tasks)
    return f"{len(tasks)} of its {wanted} tasks run." if len(tasks) < wanted else ""


def _digest(task: Description, container: str) -> str:
    found = (c.get("imageDigest", "") for c in task["containers"] if c["name"] == container)
    return str(next(found, ""))
