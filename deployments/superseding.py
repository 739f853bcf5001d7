"""Superseding: the runs of a branch give way to that of its head, unless they deploy already.

Whether a commit is the head is asked of git itself, after the runs were read: so a push that came
in between is never mistaken for an older one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from blocks.prefect_api import prefect_api, read_runs_by_id
from blocks.prefect_run import attempt_of
from blocks.run_search import (
    read_cancelled_runs,
    read_runs_by_key,
    read_runs_to_end,
    read_states,
)
from deployments.inbox import Inbox
from deployments.receiver import Repositories
from domain.errors import SamebitsError
from domain.marks import (
    SUPERSEDED,
    gave_way_to,
    gives_way,
    has_begun_to_deploy,
    superseded_by,
    way_given,
)

_GATHER_SECONDS = 1.0
_SOON_SECONDS = 5.0
_SLOW_SECONDS = 30.0
_LOOK_BACK = timedelta(days=2)
Heads = dict[str, str]
log = logging.getLogger("samebits.superseding")


@dataclass(frozen=True)
class _Going:
    """A run of the dispatcher that has not ended."""

    run: FlowRun
    repository: str
    branch: str
    sha: str

    @property
    def attempt(self) -> int:
        """Number of the try that goes on, or comes next."""
        return _attempt(self.run)

    @property
    def may_give_way(self) -> bool:
        """Whether its settings allow it, and no try of it has begun to deploy."""
        settings = self.run.parameters.get("settings")
        allowed = settings.get("supersede", True) if isinstance(settings, dict) else True
        return bool(allowed) and not _deploys(self.run)

    def key_of(self, sha: str) -> str:
        """The idempotency key of another commit's run on this branch."""
        return f"{str(self.run.idempotency_key).removesuffix(self.sha)}{sha}"


class Superseder:
    """Cancels what is superseded; set `awake` when there is a new run."""

    def __init__(
        self,
        inbox: Inbox,
        awake: asyncio.Event,
        repositories: Callable[[], Awaitable[Repositories]],
        api: Callable[[], AbstractAsyncContextManager[PrefectClient]] = prefect_api,
    ) -> None:
        self._inbox, self._awake = inbox, awake
        self._repositories, self._api = repositories, api
        self._giving_way: dict[UUID, str] = {}
        self._begun = False
        self._doubted: set[tuple[UUID, str]] = set()

    async def run(self) -> None:
        """Look for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            self._awake.clear()
            soon, began = True, clock()
            try:
                soon = await self.look()
            except SamebitsError as error:
                log.warning("nothing is superseded for now: %s", error)
            # Where many runs wait, each look takes long: what makes more of them has its turn, too.
            await asyncio.sleep(clock() - began)
            try:
                await asyncio.wait_for(self._awake.wait(), _SOON_SECONDS if soon else _SLOW_SECONDS)
            except TimeoutError:
                continue
            # The run that has come is about to start: it goes first, and others may come with it.
            await asyncio.sleep(_GATHER_SECONDS)

    async def look(self) -> bool:
        """Cancel what is superseded now. Returns whether there may soon be more to do.

        Raises ServerUnavailable; a repository that cannot be asked is passed over.
        """
        async with self._api() as client:
            if not self._begun:
                self._giving_way |= await _left_between(client)
                self._begun = True
            old = await self._perhaps_old(await read_runs_to_end(client))
            doubts: set[tuple[UUID, str]] = set()
            for repository in {going.repository for going in old}:
                heads = await self._heads(repository)
                mine = [going for going in old if going.repository == repository]
                doubts |= await self._supersede(client, mine, heads)
            self._doubted = doubts
            await self._end(client)
        return bool(old or self._giving_way)

    async def _perhaps_old(self, runs: Iterable[FlowRun]) -> list[_Going]:
        """The runs that may give way, of each branch where one is not of the last delivery."""
        going = [one for run in runs if (one := _going(run)) and one.may_give_way]
        crowded = {
            (one.repository, one.branch)
            for one in going
            if one.sha != await asyncio.to_thread(self._inbox.last_sha, one.repository, one.branch)
        }
        return [one for one in going if (one.repository, one.branch) in crowded]

    async def _heads(self, repository: str) -> Heads:
        """The heads of a repository's branches, as git says now; none where it does not answer."""
        block = (await self._repositories()).get(repository)
        try:
            return await asyncio.to_thread(block.heads) if block else {}
        except SamebitsError as error:
            log.warning("the heads of %s are not known: %s", repository, error)
            return {}

    async def _supersede(
        self, client: PrefectClient, runs: list[_Going], heads: Heads
    ) -> set[tuple[UUID, str]]:
        """Let each give way whose branch has another head that has its run.

        Returns those whose head has the older run: the branch was pushed back to it, or git's
        answer was old. They give way if it says so again.
        """
        beaten = [
            (one, head) for one in runs if (head := heads.get(one.branch, one.sha)) != one.sha
        ]
        winners = await read_runs_by_key(client, [one.key_of(head) for one, head in beaten])
        doubts = set()
        for one, head in beaten:
            winner, doubt = winners.get(one.key_of(head)), (one.run.id, head)
            if winner is None:
                continue
            if str(winner.created) < str(one.run.created) and doubt not in self._doubted:
                doubts.add(doubt)
                continue
            with contextlib.suppress(ObjectNotFound):  # somebody deletes it meanwhile
                await self._let_give_way(client, one, head)
        return doubts

    async def _let_give_way(self, client: PrefectClient, one: _Going, head: str) -> None:
        run = one.run
        if any(state.is_final() for state in await read_states(client, run.id)):
            # It had ended: a person has started it again, and wants it.
            await _label(client, run, one.attempt, "")
            return
        # In this order, see domain/marks.py.
        await _label(client, run, one.attempt, head)
        now = await client.read_flow_run(run.id)
        if _going(now) is None or _attempt(now) != one.attempt or _deploys(now):
            await _label(client, now, one.attempt, "")
            return
        log.info("%s gives way to %s", run.name, head[:8])
        self._giving_way[run.id] = head
        # By this name: Prefect's worker goes by it.
        await client.set_flow_run_state(run.id, Cancelling(message=way_given(head)))
        await self._end_run(client, await client.read_flow_run(run.id), head)

    async def _end(self, client: PrefectClient) -> None:
        """See to the end of what gives way."""
        runs = {run.id: run for run in await read_runs_by_id(client, list(self._giving_way))}
        for run_id, head in list(self._giving_way.items()):
            with contextlib.suppress(ObjectNotFound):  # as where it is not among them
                if run_id in runs:
                    await self._end_run(client, runs[run_id], head)
                    continue
            self._giving_way.pop(run_id, None)

    async def _end_run(self, client: PrefectClient, run: FlowRun, head: str) -> None:
        """Call the end of a run by its name, once nothing of it goes on."""
        if run.state and run.state.type == StateType.CANCELLING:
            if not _never_began(await read_states(client, run.id)):
                return  # its process ends; where it does not, the watchdog sees to it
        elif not run.state or run.state.type != StateType.CANCELLED:
            self._giving_way.pop(run.id, None)
            return
        if run.state.name != SUPERSEDED:
            # A try that never began is not meant any more: it may be the number of a retry.
            await _label(client, run, run.run_count, head)
            state: State[Any] = Cancelled(name=SUPERSEDED, message=way_given(head))
            await client.set_flow_run_state(run.id, state)
        self._giving_way.pop(run.id, None)


async def _left_between(client: PrefectClient) -> dict[UUID, str]:
    """The runs that give way, and what they give way to, as an earlier superseder has left them."""
    runs = await read_cancelled_runs(client, datetime.now(UTC) - _LOOK_BACK)
    return {run.id: head for run in runs if (head := gave_way_to(run.labels, run.run_count))}


async def _label(client: PrefectClient, run: FlowRun, attempt: int, head: str) -> None:
    """Write down what a try gives way to, if that is news: on SQLite a busy server refuses it."""
    if superseded_by(run.labels, attempt) != head:
        await client.update_flow_run_labels(run.id, gives_way(attempt, head))


def _never_began(states: list[State]) -> bool:
    """Whether a run was cancelled before a worker took it.

    One that waited to be started again still has the ID of its dead process: Prefect then waits for
    that one to end.
    """
    before = [state for state in states if not state.is_cancelling()]
    return bool(before) and before[-1].is_scheduled()


def _going(run: FlowRun) -> _Going | None:
    """A run that the dispatcher has made and that has not ended; None for any other."""
    if run.state and (run.state.is_final() or run.state.is_cancelling()):
        return None
    commit = run.parameters.get("commit")
    values = commit if isinstance(commit, dict) else {}
    named = [str(values.get(name) or "") for name in ("repository", "branch", "sha")]
    if not all(named) or not str(run.idempotency_key or "").endswith(f"/{named[1]}/{named[2]}"):
        return None
    return _Going(run, *named)


def _attempt(run: FlowRun) -> int:
    """The try that a run is in, or comes to next."""
    begun = run.state is not None and run.state.is_running()
    return attempt_of(run) if begun else run.run_count + 1


def _deploys(run: FlowRun) -> bool:
    """Whether any try of it has begun to deploy: one that was cut off is to be finished."""
    return any(has_begun_to_deploy(run.tags, number) for number in range(1, _attempt(run) + 1))
