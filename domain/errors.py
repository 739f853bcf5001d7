"""Every way in which this system can stop, with what happened, why, and what to do next.

Whether trying again can help is a property of the error (`retryable`): only what heals by itself
(a network, a registry's 5xx, an engine that restarts) is worth a second try.
"""

from collections.abc import Sequence

from pydantic import ValidationError

LOG_TAIL_LINES = 20
LOG_MARK = "  | "
"""Begins each line of a log in the text of an error."""


class SamebitsError(Exception):
    """A stop with a reason.

    `what` happened, `why` as far as it is known, `hint`: what to do next, `log`: the last lines of
    the log that shows it. The text of the exception is all of them, ready for a person.
    """

    retryable = False

    def __init__(
        self, what: str, *, why: str = "", hint: str = "", log: Sequence[str] = ()
    ) -> None:
        self.what, self.why, self.hint = what, why, hint
        # A progress bar ends its lines with \r: each one is to carry the mark.
        lines = [line for text in log for line in text.splitlines() or [""]]
        self.log = tuple(lines[-LOG_TAIL_LINES:])
        super().__init__(str(self))

    def __str__(self) -> str:
        sentence = " ".join(part for part in (self.what, self.why, self.hint) if part)
        return "\n".join([sentence, *(f"{LOG_MARK}{line}" for line in self.log)])


def explained(error: ValidationError) -> list[str]:
    """What pydantic found, a line for each field; without the values, which may be secrets."""
    return [
        f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
        for found in error.errors(include_input=False, include_url=False)
    ]


# -- what comes from outside ------------------------------------------------------------------


class BadInput(SamebitsError, ValueError):
    """A name, path, SHA or digest that is not what it should be."""


class BadSignature(SamebitsError):
    """A delivery that no configured webhook secret signed."""


class BadPayload(SamebitsError):
    """A delivery whose body is not what GitHub sends."""


class BodyTooLarge(SamebitsError):
    """A delivery above GitHub's own limit of 25 MB."""


# -- git --------------------------------------------------------------------------------------


class RepositoryUnreachable(SamebitsError):
    """The git server did not answer."""

    retryable = True


class RepositoryRefused(SamebitsError):
    """The git server refused the token, or there is no such repository."""


class CommitNotFound(SamebitsError):
    """The commit is not in the repository."""


class CommitNotOnBranch(SamebitsError):
    """The commit is no longer on its branch: force-pushed away, or the branch was deleted."""


# -- engine, build and tests ------------------------------------------------------------------


class EngineUnavailable(SamebitsError):
    """The Docker engine does not answer, or went away in the middle."""

    retryable = True


class EngineRefused(SamebitsError):
    """The Docker engine answered with an error that a second try will not change."""


class DiskFull(SamebitsError):
    """No space is left where the engine or this system writes."""


class DiskLow(SamebitsError):
    """Less space is free than a new build is to find."""


class DockerfileMissing(SamebitsError):
    """The commit has no Dockerfile where the settings say."""


class BuildFailed(SamebitsError):
    """A step of the Dockerfile failed."""


class BaseImageUnavailable(SamebitsError):
    """The registry of a base image does not answer."""

    retryable = True


class BuildTimedOut(SamebitsError):
    """The build took longer than its limit."""


class TestsFailed(SamebitsError):
    """The tests ran and are red."""

    __test__ = False  # not a test class, whatever pytest makes of the name


class TestsTimedOut(SamebitsError):
    """The tests took longer than their limit."""

    __test__ = False


class ImageVanished(SamebitsError):
    """An image that an earlier step made is neither on the engine nor in the registry."""


# -- registry ---------------------------------------------------------------------------------


class RegistryUnavailable(SamebitsError):
    """The registry does not answer, or answers with a 5xx."""

    retryable = True


class RegistryRefused(SamebitsError):
    """The registry refused the password, the permission or the request."""


class TokenExpired(SamebitsError):
    """The registry's login token expired in the middle of a push or pull."""

    retryable = True


class TagTaken(SamebitsError):
    """The tag exists already, and the registry lets nobody move it."""


class RepositoryMissing(SamebitsError):
    """The registry has no repository of this name."""


class VulnerableImage(SamebitsError):
    """The registry's scan found what the registry's block refuses, or has no result."""


class ImageChanged(SamebitsError):
    """The registry holds another image than the one that was tested."""


class AlreadyPublished(SamebitsError):
    """The commit is published already, as another image."""


class NotPublished(SamebitsError):
    """An image that no passed pipeline has published."""


# -- stacks -----------------------------------------------------------------------------------


class DeployFailed(SamebitsError):
    """The new version does not serve; the text says what does."""


class SwitchFailed(SamebitsError):
    """The traffic switch did not do what it was told."""


class StackUnusable(SamebitsError):
    """A stack that cannot be deployed to as it stands: it is not there, or its block is unclear."""


class Superseded(SamebitsError):
    """A commit that gives way: a newer one serves, or its branch has moved on."""

    by = ""
    """The SHA that it gives way to"""

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        hint: str = "",
        log: Sequence[str] = (),
        by: str = "",
    ) -> None:
        super().__init__(what, why=why, hint=hint, log=log)
        self.by = by


class RunEnded(SamebitsError):
    """A run that was cancelled or ended by others while its process went on."""


class Overtaken(SamebitsError):
    """A later deploy has taken the turn on the stack: this one may not touch it any more."""

    retryable = True


class ReasonMissing(SamebitsError):
    """A redeploy that goes back in git's history, without a reason."""


class UnknownStack(SamebitsError):
    """A stack that no deployment of the repository leads to."""


class UnknownBlock(SamebitsError):
    """A block that does not exist or cannot be loaded."""


# -- AWS --------------------------------------------------------------------------------------


class AwsUnavailable(SamebitsError):
    """AWS does not answer, throttles, or answers with a 5xx, however often it is asked."""

    retryable = True


class AwsRefused(SamebitsError):
    """AWS refused the credentials, the role, the permission or the request."""


# -- the system itself ------------------------------------------------------------------------


class ServerUnavailable(SamebitsError):
    """Prefect's API does not answer."""

    retryable = True


class RunRefused(SamebitsError):
    """Prefect's API does not take a run: the deployment is gone, or its parameters are wrong."""


class ChannelUnavailable(SamebitsError):
    """Slack did not take the message; it is kept and sent later."""

    retryable = True


class ChannelRefused(SamebitsError):
    """Slack refused the token, the channel or the message."""


class MessageRefused(ChannelRefused):
    """Slack refused this one message; others may pass."""


class PortTaken(SamebitsError):
    """Another program listens where this system is to listen."""


class MissingTool(SamebitsError):
    """Something that this machine lacks and that may not be installed here."""


class StartFailed(SamebitsError):
    """A part of the system did not come up."""


class DemoFailed(SamebitsError):
    """A scene of the demo did not hold."""
