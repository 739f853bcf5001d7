"""A deployment of Amazon ECS, followed to its end."""

import time
from collections.abc import Callable

from blocks.aws.ecs_service import Description, EcsService
from blocks.contracts import Log
from domain.errors import StackUnusable
from domain.names import one_line

POLL_SECONDS = 2.0
APPEARS_SECONDS = 60.0
"""How long ECS may take to show what it was asked for"""
ROLLBACK_SECONDS = 900.0
UNDER_WAY = (
    "PENDING",
    "IN_PROGRESS",
    "STOP_REQUESTED",
    "ROLLBACK_REQUESTED",
    "ROLLBACK_IN_PROGRESS",
)
GOING_UP = ("PENDING", "IN_PROGRESS")
_GOING_BACK = ("ROLLBACK_REQUESTED", "ROLLBACK_IN_PROGRESS")


class Follower:
    """Follows the deployments of a service; what is new goes to the log."""

    def __init__(self, service: EcsService, log: Log, on_rollback: Callable[[], None]) -> None:
        """`on_rollback` is called when a deployment is seen on its way back."""
        self._service, self._log, self._on_rollback = service, log, on_rollback
        self._told = {event["id"] for event in self._events()}
        self._asked: set[str] = set()

    def follow(self, arn: str, seconds: float) -> Description:
        """A deployment, once it has ended or after so long.

        A rollback has a time limit of its own: the deploy has failed by then, whatever comes of it.
        """
        deadline, said, rolling = time.monotonic() + seconds, "", False
        while True:
            now = self._known(arn)
            self._tell_events()
            status = now["status"]
            stands = " ".join(filter(None, (status, now.get("lifecycleStage"))))
            if stands != said:
                said = stands
                self._log(f"Deployment {arn.rpartition('/')[2]}: {stands}")
            self._ask_for_approval(arn, now)
            if not rolling and status in _GOING_BACK:
                rolling, deadline = True, time.monotonic() + ROLLBACK_SECONDS
                self._on_rollback()
            if status not in UNDER_WAY or time.monotonic() > deadline:
                return now
            time.sleep(POLL_SECONDS)

    def _ask_for_approval(self, arn: str, deployment: Description) -> None:
        """Log once, for each hook at which it waits for somebody, how to continue it."""
        for hook in awaited(deployment):
            if hook not in self._asked:
                self._asked.add(hook)
                self._log(
                    f"It waits for somebody to continue it: aws ecs continue-service-deployment "
                    f"--service-deployment-arn {arn} --hook-id {hook} --action CONTINUE"
                )

    def _known(self, arn: str) -> Description:
        """A deployment that ECS has listed; it may know more of it only a moment later."""
        deadline = time.monotonic() + APPEARS_SECONDS
        while (found := self._service.deployment(arn)) is None:
            if time.monotonic() > deadline:
                raise StackUnusable(f"{self._service} no longer knows its deployment {arn}.")
            time.sleep(POLL_SECONDS)
        return found

    def _events(self) -> list[Description]:
        return list(self._service.describe().get("events", []))

    def _tell_events(self) -> None:
        """Log the service's events that are new, the oldest first."""
        for event in reversed(self._events()):
            if event["id"] not in self._told:
                self._told.add(event["id"])
                self._log(one_line(event["message"], 400))


def awaited(deployment: Description) -> list[str]:
    """The IDs of the pause hooks at which a deployment waits for somebody to continue it.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-lifecycle-hooks.html
    """
    hooks = deployment.get("lifecycleHookDetails", [])
    return [hook["hookId"] for hook in hooks if hook.get("status") == "AWAITING_ACTION"]
