"""What is written on a run, for others to see: that it deploys, what it gives way to.

Whoever supersedes a run first writes down by which commit, and then looks whether the run deploys;
a run first writes down that it deploys, and then looks whether it is superseded. So at least one of
the two sees the other, and no deploy is cut off.
"""

from collections.abc import Collection, Mapping
from typing import Any

SUPERSEDED = "Superseded"
"""Name of the state of a run that gave way"""

RESTARTED = "Restarted"
"""Name of the state of a run that was cut off, and waits to go on"""

Labels = dict[str, bool | int | float | str]
"""As Prefect takes them"""

_DEPLOYS = "deploys"
_SUPERSEDED_BY = "samebits.superseded-by"
_RESTARTS = "samebits.restarts"
_DELIVERY = "samebits.delivery"


def deploys_tag(attempt: int) -> str:
    """The tag that a run carries from the moment in which its try number `attempt` deploys."""
    return f"{_DEPLOYS}:{attempt}"


def begins_to_deploy(tags: Collection[str], attempt: int) -> list[str]:
    """The tags of a run whose try `attempt` begins to deploy; those of earlier tries go."""
    others = [tag for tag in tags if not tag.startswith(f"{_DEPLOYS}:")]
    return [*others, deploys_tag(attempt)]


def has_begun_to_deploy(tags: Collection[str], attempt: int) -> bool:
    """Whether this try of a run may have begun to change a stack."""
    return deploys_tag(attempt) in tags


def gives_way(attempt: int, sha: str) -> Labels:
    """The label that says by which commit this try of a run is superseded."""
    return {_SUPERSEDED_BY: f"{attempt} {sha}"}


def superseded_by(labels: Mapping[str, Any], attempt: int) -> str:
    """The SHA that this try of a run gives way to; empty for none."""
    tried, _, sha = str(labels.get(_SUPERSEDED_BY, "")).partition(" ")
    return sha if tried == str(attempt) else ""


def gave_way_to(labels: Mapping[str, Any], run_count: int) -> str:
    """The SHA that a run gave way to which is cancelled now; empty for none.

    A try that was cancelled before it began is not in the run's count.
    """
    return superseded_by(labels, run_count) or superseded_by(labels, run_count + 1)


def way_given(sha: str) -> str:
    """What is said of a run that gave way: always the same, so that it is told once."""
    return f"It gave way to {sha[:8]}, the head of its branch."


def restarted(times: int) -> Labels:
    """The label that counts how often a run was started again by itself."""
    return {_RESTARTS: times}


def restarts(labels: Mapping[str, Any]) -> int:
    """How often a run was started again by itself."""
    text = str(labels.get(_RESTARTS, 0))
    return int(text) if text.isdecimal() else 0


def delivered_by(delivery: str) -> dict[str, str]:
    """The label that says which delivery made a run."""
    return {_DELIVERY: delivery}


def made_by(labels: Mapping[str, Any], delivery: str) -> bool:
    """Whether a run was made for this delivery, and was not there before."""
    return labels.get(_DELIVERY) == delivery
