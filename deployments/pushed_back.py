"""What becomes of a branch that was pushed back, by force, to a commit that has its run already.

No new run is made for that commit, so the stack is made to follow it.
"""

import logging
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from blocks.prefect_api import create_redeploy_run, read_runs_by_id, retry_run
from deployments.looking import Move
from domain.marks import SUPERSEDED

log = logging.getLogger("samebits.reconciler")


class PushedBack:
    """Follows each move of a branch once."""

    def __init__(self) -> None:
        # If this process ends, a move may cost a redeploy of what serves already.
        self._deploys_itself: set[str] = set()

    async def follow(self, client: PrefectClient, move: Move) -> bool:
        """Do what a move calls for; False if that is not known before the commit's run has ended.

        However often it is called for one move, it starts one run. Raises ServerUnavailable, and
        BadInput where prefect.yaml has no redeploy for the repository.
        """
        runs = await read_runs_by_id(client, [UUID(move.run_id)] if move.run_id else [])
        run = runs[0] if runs else None
        if run is not None and (run.state is None or not run.state.is_final()):
            # It is the head's run again, and deploys; unless it was told before to give way.
            self._deploys_itself.add(move.key)
            return False
        if move.key in self._deploys_itself and not _gave_way(run):
            self._deploys_itself.discard(move.key)
        elif run is not None and _gave_way(run):
            await self._retry(client, move, run)
        elif move.stack and (run is None or _passed(run)):
            await self._redeploy(client, move, move.stack)
        else:
            log.info("%s is pushed back: its run has ended, nothing follows", _named(move))
        return True

    async def _retry(self, client: PrefectClient, move: Move, run: FlowRun) -> None:
        log.info("%s is pushed back: its run is started again", _named(move))
        await retry_run(client, run.id, f"{move.commit.branch} was pushed back to this commit")

    async def _redeploy(self, client: PrefectClient, move: Move, stack: str) -> None:
        commit = move.commit
        reason = f"{commit.branch} was pushed back from {move.old[:8]} to {commit.short_sha}"
        log.info("%s: %s follows", reason, stack)
        await create_redeploy_run(
            client, commit.repository, stack, commit.sha, reason, commit.branch, move.key
        )


def _gave_way(run: FlowRun | None) -> bool:
    return bool(run and run.state and run.state.name == SUPERSEDED)


def _passed(run: FlowRun) -> bool:
    return bool(run.state and run.state.is_completed())


def _named(move: Move) -> str:
    return f"{move.commit.repository} {move.commit.title}"
