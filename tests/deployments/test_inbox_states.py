"""Deliveries, looks at git, crashes and prunings in any order: one run each; the stack follows."""

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from prefect.client.schemas.objects import StateType

from blocks.repository import Revision
from deployments.dispatcher import Dispatcher
from deployments.inbox import Delivery, Inbox
from deployments.reconciler import Reconciler
from domain.commit import Commit
from domain.errors import CommitNotOnBranch, ServerUnavailable, Superseded
from domain.order import Standing, check_order
from tests.deployments.deployed import DeployedPrefect

FAULTS = st.sampled_from(["none", "before", "after"])
LATER = 10**6


class Git:
    """The branch master, as the room of git shows it: commits with their parents, and a head."""

    def __init__(self) -> None:
        self.parents: dict[str, str] = {}
        self.head = ""

    def push(self) -> str:
        sha = f"{len(self.parents) + 1:040x}"
        self.parents[sha], self.head = self.head, sha
        return sha

    def has(self, old: str, new: str) -> bool:
        """Whether a commit is in the history of another."""
        while new and new != old:
            new = self.parents[new]
        return bool(old) and new == old

    def heads(self) -> dict[str, str]:
        return {"master": self.head} if self.head else {}

    def revisions(self, name: str, _: list[str]) -> dict[str, Revision]:
        commit = Commit(repository=name, branch="master", sha=self.head)
        return {"master": Revision(commit=commit, tree="", committed="2026-01-01T00:00:00+00:00")}

    def standing(self, commit: Commit, running: str) -> Standing:
        return Standing(
            head=self.head,
            on_branch=self.has(commit.sha, self.head),
            running_on_branch=self.has(running, self.head),
            ahead=self.has(running, commit.sha),
            behind=self.has(commit.sha, running),
        )


class Arrivals(RuleBasedStateMachine):
    """Each run deploys, or gives way, as soon as it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.git, self.prefect = Git(), DeployedPrefect()
        self.prefect.leads("master", "stage")
        self.prefect.can_redeploy()
        self.serving, self.ended = "", set[UUID]()
        self.delivered: dict[str, str] = {}
        self.crash()

    @rule()
    def crash(self) -> None:
        """What is not in the file is forgotten."""
        self.inbox = Inbox(Path(self.folder.name, "inbox.sqlite"))
        self.dispatcher = Dispatcher(self.inbox, asyncio.Queue(), self.prefect.client)
        self.reconciler = Reconciler(
            self.inbox,
            self._repositories,
            lambda _: None,
            asyncio.Event(),
            seconds=1,
            keep_days=LATER,
            api=self.prefect.client,
        )

    async def _repositories(self) -> dict[str, Git]:
        return {"hello": self.git}

    @rule(told=st.booleans())
    def push(self, told: bool) -> None:
        sha = self.git.push()
        if told:
            self._deliver(sha)

    @rule(data=st.data(), told=st.booleans())
    def push_by_force(self, data: st.DataObject, told: bool) -> None:
        if self.git.parents:
            self.git.head = data.draw(st.sampled_from(sorted(self.git.parents)))
            if told:
                self._deliver(self.git.head)

    @rule(data=st.data(), again=st.booleans())
    def redeliver(self, data: st.DataObject, again: bool) -> None:
        """The same delivery once more, or a late one of the same commit under another ID."""
        if self.delivered:
            delivery_id = data.draw(st.sampled_from(sorted(self.delivered)))
            self._deliver(self.delivered[delivery_id], delivery_id if again else "")

    def _deliver(self, sha: str, delivery_id: str = "") -> None:
        delivery_id = delivery_id or f"delivery {len(self.delivered)}"
        self.delivered[delivery_id] = sha
        self.inbox.store(Delivery(delivery_id, "push", "hello", "master", sha))

    @rule(fault=FAULTS)
    def dispatch(self, fault: str) -> None:
        away = ServerUnavailable("Prefect's API does not answer.")
        self.prefect.faults["master"] = [away] if fault == "before" else []
        self.prefect.lost_answers = [away] if fault == "after" else []
        self._run(self.dispatcher.dispatch())

    @rule(fault=FAULTS)
    def look(self, fault: str) -> None:
        away = ServerUnavailable("Prefect's API does not answer.")
        self.prefect.faults["redeploy"] = [away] if fault == "before" else []
        self.prefect.lost_answers = [away] if fault == "after" else []
        self._run(self.reconciler.reconcile())

    @rule()
    def prune(self) -> None:
        """As if years had gone by, with all that happens every few minutes."""
        self._settle()
        self.inbox.prune(-1)

    def _settle(self) -> None:
        for _ in range(4):
            self.dispatch("none")
            self.look("none")

    def _run(self, work: Awaitable[None]) -> None:
        async def to_its_end() -> None:
            try:
                await work
            except ServerUnavailable:
                return

        asyncio.run(to_its_end())
        for run in list(self.prefect.runs.values()):
            if run.state and run.state.is_scheduled():
                self._deploy(run.id)

    def _deploy(self, run_id: UUID) -> None:
        parameters = self.prefect.runs[run_id].parameters
        sha = parameters.get("image") or parameters["commit"]["sha"]
        commit = Commit(repository="hello", branch="master", sha=sha)
        name, kind = None, StateType.COMPLETED
        try:
            check_order(
                commit, self.serving, self.git.standing(commit, self.serving), was_here=True
            )
            self.serving = sha
        except (Superseded, CommitNotOnBranch):
            name, kind = "Superseded", StateType.CANCELLED
        self.prefect.set(run_id, kind, name=name)

    def teardown(self) -> None:
        try:
            self._settle()
            runs = [sha for _, sha in self.prefect.commits()]
            assert len(runs) == len(set(runs)), "two runs of one commit"
            missing = (set(self.delivered.values()) | set(self.git.heads().values())) - set(runs)
            assert not missing, "no run of a commit"
            assert self.inbox.count_waiting() == 0
            assert self.serving == self.git.head, "the stack did not follow its branch"
        finally:
            self.folder.cleanup()


TestArrivals = Arrivals.TestCase
TestArrivals.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, derandomize=True
)
