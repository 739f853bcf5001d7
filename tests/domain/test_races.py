"""Pushes that race to one stack, in random interleavings, on the rules that the pipeline uses."""

import itertools
import random
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from domain.commit import Commit
from domain.errors import CommitNotOnBranch, Superseded
from domain.order import Standing, check_order
from tests.fault_plugin import fault

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


class Stack:
    """A stack that knows the last turn, as the traffic switch does."""

    def __init__(self) -> None:
        self.running, self.turn = "", 0
        self.served: list[str] = []


def deploying(git: History, stack: Stack, sha: str) -> Iterator[None]:
    """A deploy, part by part: its turn, a look at git, a new version, another look, the switch."""
    commit = Commit(repository="hello", branch=_BRANCH, sha=sha)
    stack.turn += 1
    turn, old = stack.turn, stack.running
    for _ in ("before it starts the version", "once that is healthy"):
        yield
        try:
            check_order(commit, old, git.standing(sha, old), was_here=True)
        except (Superseded, CommitNotOnBranch):
            return
    if turn == stack.turn:  # else the switch refuses it
        stack.running = sha
        stack.served.append(sha)


@fault("two pushes racing to one stack, simulated", trials=200, quick=50)
def test_however_two_pushes_race_the_stack_never_goes_back(chance: random.Random) -> None:
    git, stack = History(), Stack()
    for _ in range(chance.randint(1, 5)):
        git.head = git.commit(git.head)
    pushed: list[str] = []
    running: list[Iterator[None]] = []
    waiting = 2
    while waiting or running:
        # A lock that was lost with its holder lets two deploys run at a time.
        if waiting and (not running or chance.random() < 0.5):
            git.head = git.commit(git.head)
            pushed.append(git.head)
            running.append(deploying(git, stack, git.head))
            chance.shuffle(running)
            waiting -= 1
        run = chance.choice(running)
        if next(run, True):
            running.remove(run)
    assert all(git.leads_to(old, new) for old, new in itertools.pairwise(stack.served))
    # What was overtaken is tried again by its step, and then gives way or goes on.
    for sha in chance.sample(pushed, 2):
        list(deploying(git, stack, sha))
    assert stack.running == git.head


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
