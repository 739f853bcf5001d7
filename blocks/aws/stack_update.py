"""A deploy through CloudFormation: one update of a stack, followed to its end by its events."""

import time
from dataclasses import dataclass, field

from blocks.aws.cloudformation import CloudFormation, Event
from blocks.contracts import Log, Turn
from domain.errors import AwsRefused, DeployFailed, StackUnusable
from domain.image import PublishedImage
from domain.names import one_line

POLL_SECONDS = 2.0
_BUSY = "_IN_PROGRESS"
_NEVER_MADE = "REVIEW_IN_PROGRESS"
_GOES_ON = "UPDATE_IN_PROGRESS"
_DONE = "UPDATE_COMPLETE"
_CLEANS_UP = "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
_UPDATABLE = ("CREATE_COMPLETE", _DONE, "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
_ROLLBACK_SECONDS = 900.0


@dataclass
class StackUpdate:
    """An update of a stack, in which one parameter becomes the image."""

    stack: CloudFormation
    parameter: str
    image: PublishedImage
    turn: Turn
    log: Log
    timeout_seconds: float
    _started: float = field(default_factory=time.monotonic)
    _known: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Update an idle stack; nothing to change is fine. Raises DeployFailed or StackUnusable."""
        if self.parameter not in (there := self.stack.parameters()):
            raise StackUnusable(
                f"The template of {self.stack.name} has no parameter {self.parameter!r}.",
                hint=f"It has: {', '.join(sorted(there)) or 'none'}. Correct the block.",
            )
        self.stack.events(self._known)
        change_set = self._change_set()
        if change_set is None:
            self._check_image_is_there()
            self.log(f"{self.stack.name} has this image already: no changes")
            return
        # A change set that is ready stands for the stack as it is: AWS refuses to execute it once
        # somebody else has updated the stack. So what is admitted here is what gives way.
        try:
            self.turn.admit(self.stack.image_in(self.parameter))
        except BaseException:
            self.stack.discard(change_set)
            raise
        self.stack.execute(change_set)
        self._follow_to_success()

    def wait_until_idle(self) -> None:
        """Let an update come to its end that an earlier try, or somebody else, has begun.

        Raises DeployFailed if that takes too long, StackUnusable if it can then not be updated.
        """
        waiting = False
        while (status := self.stack.status).endswith(_BUSY) and status != _NEVER_MADE:
            if not waiting:
                self.log(f"{self.stack.name} is {status}; waiting for it")
                self.stack.events(self._known)
                waiting = True
            self._news()
            if self._left() <= 0:
                raise DeployFailed(
                    f"The stack {self.stack.name} is still {status}.",
                    why=f"It was waited for {self.timeout_seconds:g} s.",
                    hint="Nothing was changed. Retry the run when it is done.",
                )
            time.sleep(POLL_SECONDS)
        if status not in _UPDATABLE:
            raise StackUnusable(
                f"The stack {self.stack.name} is {status}, and cannot be updated.",
                hint="Mend it in the CloudFormation console (continue the rollback, or delete and "
                "create it), then retry the run.",
            )

    def _change_set(self) -> str | None:
        """A change set with the image; None where it would change nothing."""
        change_set = self.stack.propose(self.parameter, self.image.reference)
        while not (ready := self.stack.proposed(change_set)):
            if ready is None:
                return None
            if self._left() <= 0:
                self.stack.discard(change_set)
                raise DeployFailed(
                    f"CloudFormation did not prepare the update of {self.stack.name} in time.",
                    hint="Nothing was changed. Retry the run.",
                )
            time.sleep(POLL_SECONDS)
        return change_set

    def _check_image_is_there(self) -> None:
        """Raise DeployFailed where CloudFormation sees no change, and the image is another one.

        Source: https://github.com/aws-cloudformation/cfn-language-discussion/issues/146
        """
        now = self.stack.parameters().get(self.parameter)
        if now != self.image.reference:
            raise DeployFailed(
                f"CloudFormation sees nothing to change in {self.stack.name}, though "
                f"{self.parameter} is {now or 'empty'}.",
                why="No resource of the template uses this parameter; or the template has the "
                "transform AWS::LanguageExtensions, which takes no new value without its template.",
                hint="Nothing was changed. Correct parameter in the block, or the template.",
            )

    def _follow_to_success(self) -> None:
        failed: list[Event] = []
        end, why = self._end(self.timeout_seconds, failed), ""
        if not end:
            why, patience = self._stopped()
            end = self._end(patience, failed) or self.stack.status
        if end in (_DONE, _CLEANS_UP):
            return
        raise DeployFailed(
            f"The stack {self.stack.name} did not take {self.image.digest}: it is {end}.",
            why=" ".join(filter(None, (why, _reason(failed)))),
            log=[_line(event) for event in failed],
        )

    def _stopped(self) -> tuple[str, float]:
        """Stop an update that takes too long: why it failed, and for how long to follow it yet.

        What is on its way back, or has only its old resources to remove, is not stopped.
        """
        late = f"It was not done after {self.timeout_seconds:g} s"
        if self.stack.status != _GOES_ON:
            return f"{late}.", _ROLLBACK_SECONDS
        self.log(f"{late}: stopping it, with a rollback")
        try:
            self.stack.cancel()
        except AwsRefused as error:
            # It may have come to its end in this moment.
            patience = 0 if self.stack.status == _GOES_ON else _ROLLBACK_SECONDS
            return f"{late}, and could not be stopped: {error}", patience
        return f"{late}, and was stopped.", _ROLLBACK_SECONDS

    def _end(self, seconds: float, failed: list[Event]) -> str:
        """The stack's status at the end of the update, empty after so many seconds.

        By the stack's own events since the update began: its status may still be the last one.
        """
        deadline = time.monotonic() + seconds
        while True:
            for event in self._news():
                status = event.get("ResourceStatus", "")
                if status.endswith("_FAILED"):
                    failed.append(event)
                of_stack = event.get("PhysicalResourceId") == event["StackId"]
                if of_stack and status and not status.endswith(_BUSY):
                    return str(status)
            if time.monotonic() > deadline:
                return ""
            time.sleep(POLL_SECONDS)

    def _news(self) -> list[Event]:
        """The stack's events since it was last asked, which go to the log."""
        news = self.stack.events(self._known)
        for event in news:
            self.log(_line(event))
        return news

    def _left(self) -> float:
        """Seconds to wait yet for the update to begin; once it has, it has its own time."""
        return max(self._started + self.timeout_seconds - time.monotonic(), 0.0)


def _reason(failed: list[Event]) -> str:
    """The first event that failed; those after it are its consequences."""
    if not failed:
        return "No event says why."
    first = failed[0]
    said = first.get("ResourceStatusReason", "without a reason")
    return f"{first['LogicalResourceId']}: {one_line(said, 500)}"


def _line(event: Event) -> str:
    said = event.get("ResourceStatusReason", "")
    place = f"{event['LogicalResourceId']} ({event['ResourceType']})"
    return one_line(f"{event.get('ResourceStatus', '')} {place} {said}", 400).strip()
