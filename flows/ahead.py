"""What a run is going to need, begun while Prefect's engine begins the run and its first step."""

import logging
from functools import partial

from blocks.engine import DockerHost, Engine
from blocks.limits import have_limit
from blocks.loading import load, read_meanwhile
from blocks.named import stack_called
from blocks.repository import GitHubRepository
from flows.steps import ENGINE, limit_of

log = logging.getLogger("samebits.ahead")


def get_ready(repository: str, branch: str, stack: str | None) -> None:
    """In a run: begin to read its blocks, then to connect its engine, to fetch the branch that is
    built, if any, and to see to the limit of a stack.

    A step that finds nothing ready does it itself.
    """
    then = partial(_get_ready, repository, branch, stack)
    read_meanwhile(repository, ENGINE, stack, then=then)


def _get_ready(repository: str, branch: str, stack: str | None) -> None:
    try:
        with Engine(load(DockerHost, ENGINE)):
            pass  # in a run, it stays open
        if branch:
            load(GitHubRepository, repository).fetch(repository, branch)
        if stack:
            stack_called(stack)  # one that is not there has no limit either
            have_limit(limit_of(stack))
    except Exception:
        # The step that needs it meets the same, and tells.
        log.debug("not all is ready", exc_info=True)
