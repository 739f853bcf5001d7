"""What happens to a commit. Read this file first."""

from enum import StrEnum

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.prefect_api import name_run
from domain.commit import Commit
from domain.settings import Settings
from flows.ahead import get_ready
from flows.steps import build, deploy, publish, run_tests


class Outcome(StrEnum):
    """Where a passed pipeline left the commit."""

    TESTED = "tested"
    DEPLOYED = "deployed"


@flow(name="pipeline", on_running=[name_run])
async def pipeline(
    commit: Commit,
    stack: str | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> Outcome | State[str]:
    """Build and test a commit; send that same image where its branch leads.

    Args:
        commit: What to build; without a SHA it is the head of the branch
        stack: Where it goes after green tests; none to build and test only
        settings: How it is built and tested

    """
    get_ready(commit.repository, commit.branch, stack)
    tested = run_tests(build(commit, settings.build, trusted=stack is not None), settings.test)
    if stack is None:
        return Outcome.TESTED
    deployed = deploy(publish(tested), stack)
    return Outcome.DEPLOYED if deployed.is_completed() else deployed
