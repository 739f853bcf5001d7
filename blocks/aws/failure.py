"""Why a deployment of Amazon ECS failed, in the words of ECS, its tasks and their log."""

from collections.abc import Mapping
from typing import Any

from blocks.aws.ecs_service import Description, EcsService
from blocks.aws.following import UNDER_WAY
from blocks.aws.verification import serves_now
from domain.errors import DeployFailed, SamebitsError
from domain.image import PublishedImage
from domain.names import one_line

_MOST_EVENTS = 6
_MOST_TASKS = 2


def deploy_failed(
    service: EcsService, image: PublishedImage, deployment: Description, why: str
) -> DeployFailed:
    """The failed deploy of an image: how it ended, the causes, and which digest serves now."""
    tasks: list[str] = []
    unread, log = "", list[str]()
    try:
        stopped = _stopped_tasks(service, image, deployment)
        tasks = [_why_stopped(task, image) for task in stopped]
        log = [one_line(e["message"], 300) for e in service.describe()["events"][:_MOST_EVENTS]]
        log.reverse()
        log += service.last_lines(stopped[0]) if stopped else []
    except SamebitsError as error:  # it must not take the place of the failure itself
        unread = f"More could not be read: {error.what}"
    some = list(dict.fromkeys(tasks))[:_MOST_TASKS]
    causes = dict.fromkeys([why, *some, *_said_by_ecs(deployment), unread])
    status = deployment["status"]
    how = "is still" if status in UNDER_WAY else "ended as"
    shown = " Its last events, and the last lines of its log:" if log else ""
    return DeployFailed(
        f"{service} did not take {image.digest}: the deployment {how} {status}.",
        why=" ".join(filter(None, causes)),
        hint=f"{serves_now(service)}{shown}",
        log=log,
    )


def _stopped_tasks(
    service: EcsService, image: PublishedImage, deployment: Description
) -> list[Description]:
    """The tasks of this image that this deployment has stopped; those that say most come first."""
    since = deployment["createdAt"]
    stopped = [
        task
        for task in service.tasks("STOPPED")
        if _container_with(task, image) and task.get("createdAt", since) >= since
    ]
    return sorted(stopped, key=_ended_by_scheduler)


def _ended_by_scheduler(task: Description) -> bool:
    """Whether a task was only in the way, as of a rollback, and says nothing of a cause."""
    return str(task.get("stoppedReason", "")).startswith("Scaling activity")


def _container_with(task: Description, image: PublishedImage) -> Mapping[str, Any] | None:
    containers: list[Mapping[str, Any]] = task["containers"]
    return next((c for c in containers if c.get("image") == image.reference), None)


def _why_stopped(task: Description, image: PublishedImage) -> str:
    """Why a task stopped: ECS's reason, and how the container with the image ended."""
    container = _container_with(task, image) or {}
    code = container.get("exitCode")
    parts = [
        str(task.get("stoppedReason", "A task stopped.")).rstrip("."),
        str(container.get("reason", "")),
        f"exit code {code}" if code is not None else "",
    ]
    return one_line("; ".join(dict.fromkeys(filter(None, parts))), 400) + "."


def _said_by_ecs(deployment: Description) -> list[str]:
    rollback = deployment.get("rollback") or {}
    said = (deployment.get("statusReason"), rollback.get("reason"))
    return [one_line(str(text), 300) for text in said if text]
