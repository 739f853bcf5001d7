"""Pushes that race to one stack, in random interleavings, on the rules that the pipeline uses."""

import itertools

from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from domain.commit import Commit
from domain.errors import CommitNotOnBranch, Superseded
from domain.order import Standing, check_order

_BRANCH = "master"


class History:
    """A git repository with one branch: commits with their parents, and where the branch is."""

    def __init__(self) -> None:
        self.parents: dict[str, str] = {}
        self.head = ""
        self._numbers = itertools.count(1)

    def commit(self, parent: str) -> str:
        sha = f"{next(self._numbers):040x}"
        self.parents[sha] = parent
        return sha

    def leads_to(self, old: str, new: str) -> bool:
        while new:
            if new == old:
                return True
            new = self.parents[new]
        return False

    def standing(self, sha: str, running: str) -> Standing:
        return Standing(
            head=self.head,
            on_branch=self.leads_to(sha, self.head),
            running_on_branch=bool(running) and self.leads_to(running, self.head),
            ahead=bool(running) and self.leads_to(running, sha),
            behind=bool(running) and self.leads_to(sha, running),
        )


class Race(RuleBasedStateMachine):
    """Runs come in any order, look at git, and deploy; the branch moves at any moment."""

    commits = Bundle("commits")

    def __init__(self) -> None:
        super().__init__()
        self.git = History()
        self.running = ""

    @rule(target=commits)
    def push(self) -> str:
        self.git.head = self.git.commit(self.git.head)
        return self.git.head

    @rule(to=commits)
    def push_by_force(self, to: str) -> None:
        self.git.head = to

    @rule(target=commits, on=commits)
    def rewrite(self, on: str) -> str:
        self.git.head = self.git.commit(self.git.parents[on])
        return self.git.head

    @rule()
    def delete(self) -> None:
        self.git.head = ""

    @rule(sha=commits)
    def deploy(self, sha: str) -> None:
        """A run of any age has its turn on the stack."""
        commit = Commit(repository="hello", branch=_BRANCH, sha=sha)
        seen = self.git.standing(sha, self.running)
        try:
            check_order(commit, self.running, seen, was_here=True)
        except Superseded:
            assert self.git.head != sha or seen.running_on_branch, "the head has to be followed"
            return
        except CommitNotOnBranch:
            assert not self.git.head
            return
        assert self.git.leads_to(sha, self.git.head), "it is not on the branch"
        if self.running and self.git.leads_to(self.running, self.git.head):
            assert self.git.leads_to(self.running, sha), "the stack went back"
        self.running = sha

    @invariant()
    def the_head_is_never_refused_for_good(self) -> None:
        """Once every run has had its turn, the head serves: its run comes last at the latest."""
        if not self.git.head:
            return
        commit = Commit(repository="hello", branch=_BRANCH, sha=self.git.head)
        check_order(
            commit, self.running, self.git.standing(self.git.head, self.running), was_here=True
        )


TestRaces = Race.TestCase
TestRaces.settings = settings(
    max_examples=50,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
