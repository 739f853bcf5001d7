"""Strings that break programs, as names of branches and as messages of commits."""

import asyncio
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.actions import DeploymentFlowRunCreate
from prefect.client.schemas.objects import FlowRun
from pydantic import SecretStr

from blocks.prefect_api import read_routes
from blocks.repository import GitHubRepository
from deployments.dispatcher import Dispatcher
from deployments.inbox import Delivery, Inbox
from deployments.looking import look_at
from deployments.receiver import Repositories, make_receiver
from domain.commit import Commit
from domain.errors import CommitNotOnBranch
from domain.message import RunReport, Status, message_of
from domain.names import one_line
from tests.arrivals import SECRET, push_body, signed
from tests.deployments.deployed import DeployedPrefect
from tests.fault_plugin import fault
from tests.naughty_strings import (
    branches,
    executed,
    is_ours,
    push_all,
    strings,
    without_parents,
)
from tests.npm import NpmMissing

NAUGHTY = "branch names and commit messages from npm big-list-of-naughty-strings"
NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What would break a line, or turn the direction of what follows"""
BRANCHES, STRINGS = 164, 467
"""How many the list has, with ours"""


class Keeping(DeployedPrefect):
    """A Prefect that takes what its API can take, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[DeploymentFlowRunCreate] = []

    async def create_flow_run_from_deployment(self, deployment_id: UUID, **given: Any) -> FlowRun:
        given.pop("state")
        asked = DeploymentFlowRunCreate(**given)
        self.taken.append(DeploymentFlowRunCreate.model_validate_json(asked.model_dump_json()))
        return await super().create_flow_run_from_deployment(deployment_id, **given)


@dataclass
class House:
    """What a delivery goes through, and the repositories that all of the strings are pushed to."""

    inbox: Inbox
    prefect: Keeping
    sources: dict[str, tuple[GitHubRepository, str, int]] = field(default_factory=dict)
    """By branch, or by message: its repository, its SHA and the number in it"""
    messages: dict[str, tuple[GitHubRepository, str, int]] = field(default_factory=dict)

    def arrive(self, block: GitHubRepository, branch: str, sha: str, message: str) -> Delivery:
        """A signed delivery, through receiver, inbox and dispatcher; what became of it."""

        async def arrive() -> Delivery:
            async def repositories() -> Repositories:
                return {"hello": block}

            app = make_receiver(self.inbox, repositories, lambda _: None)
            body = push_body(block.url, branch, sha, message)
            headers = signed(body)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                answer = await client.post("/github", content=body, headers=headers)
            assert answer.status_code == 202
            await Dispatcher(self.inbox, asyncio.Queue(), self.prefect.client).dispatch()
            return self.inbox.get(headers["X-GitHub-Delivery"])

        return asyncio.run(arrive())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """All strings, pushed; afterwards none of them has done anything."""
    for left in executed():
        left.unlink()
    try:
        listed = branches()
    except NpmMissing as error:
        pytest.skip(str(error))
    assert (len(listed), len(strings())) == (BRANCHES, STRINGS)
    folder = tmp_path_factory.mktemp("naughty")
    prefect = Keeping()
    prefect.leads("*")
    house = House(Inbox(folder / "inbox.sqlite"), prefect)
    for number, names in enumerate(without_parents(listed)):
        (folder / str(number)).mkdir()
        bare, shas = push_all(folder / str(number), [(name, name) for name in names])
        for n, (name, sha) in enumerate(zip(names, shas, strict=True)):
            house.sources[name] = (block_of(bare), sha, n)
    (folder / "messages").mkdir()
    bare, shas = push_all(folder / "messages", [("master", text) for text in strings()])
    for n, (text, sha) in enumerate(zip(strings(), shas, strict=True)):
        house.messages[text] = (block_of(bare), sha, n)
    yield house
    assert executed() == []


@pytest.fixture(autouse=True)
def mirrors(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirrors that earlier strings have left: one for all of a repository."""
    monkeypatch.setenv("SAMEBITS_HOME", str(tmp_path_factory.getbasetemp() / "naughty-home"))


def block_of(bare: Path) -> GitHubRepository:
    return GitHubRepository(url=str(bare), webhook_secret=SecretStr(SECRET))


def check_run(house: House, delivery: Delivery, branch: str, sha: str) -> Commit:
    """The delivery has a run of its own, whose names say what it is of; returns its commit."""
    assert (delivery.state, delivery.reason) == ("dispatched", "")
    run, asked = house.prefect.runs[UUID(delivery.run_id)], house.prefect.taken[-1]
    commit = Commit.model_validate(run.parameters["commit"])
    assert (commit.branch, commit.sha) == (branch, sha)
    assert asked.name is not None
    assert asked.name.startswith(f"{commit.shown_branch} {sha[:8]}")
    assert not NOT_SHOWN.search(asked.name)
    assert NOT_SHOWN.search(branch) or one_line(branch) != branch or branch in asked.name
    assert asked.tags == ["repository:hello", f"branch:{branch}"]
    keys = [taken.idempotency_key for taken in house.prefect.taken]
    assert len(set(keys)) == len(keys) == len(house.prefect.runs)
    return commit


def check_bits(block: GitHubRepository, commit: Commit, number: int) -> Commit:
    """Git finds this commit, and its content; returns it as git knows it."""
    name = f"hello-{Path(block.url).parent.name}"
    found = block.find(commit.model_copy(update={"repository": name})).commit
    with block.archive(name, found.sha) as archive, tarfile.open(fileobj=archive) as tar:
        content = tar.extractfile("which")
        assert content
        assert content.read() == str(number).encode()
    return found


def check_message(commit: Commit) -> None:
    """What Slack gets calls nobody, and links nowhere."""
    report = RunReport(
        run_id="1",
        kind="pipeline",
        commit=commit,
        stack=None,
        status=Status.FAILED,
        attempt=1,
        reason=f"{commit.branch} {commit.subject}",
    )
    message = message_of(report)
    for text in (message.text, *message.sections):
        assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", text)
    assert not NOT_SHOWN.search(message.text)
    assert commit.shown_branch in message.plain()


@fault(NAUGHTY, trials=BRANCHES, quick=13)
def test_a_branch_of_any_name_that_git_allows_has_its_run_of_its_commit(
    house: House, trial: int
) -> None:
    branch = branches()[trial]
    block, sha, number = house.sources[branch]
    delivery = house.arrive(block, branch, sha, branch)
    if not is_ours(branch):
        assert delivery.state == "ignored"
        assert "is not a branch name" in delivery.reason
        assert "a name may not begin with '-'" in delivery.reason
        assert branch.startswith("-") or len(branch.encode()) > 240
        return
    commit = check_run(house, delivery, branch, sha)
    assert check_bits(block, Commit(repository="hello", branch=branch), number).sha == sha
    check_message(commit)


@fault(NAUGHTY, trials=STRINGS, quick=12)
def test_a_commit_of_any_message_has_its_run(house: House, trial: int) -> None:
    message = strings()[trial]
    block, sha, number = house.messages[message]
    delivery = house.arrive(block, "master", sha, message)
    commit = check_run(house, delivery, "master", sha)
    assert commit.subject == one_line(message)
    assert check_bits(block, commit, number).subject == commit.subject
    check_message(commit)


@fault(NAUGHTY, trials=1)
async def test_a_look_at_git_finds_each_branch_and_leaves_out_what_is_not_taken(
    house: House, tmp_path: Path, full: bool
) -> None:
    names, _ = without_parents(branches())
    block = house.sources[names[0]][0]
    taken = {name: house.sources[name][1] for name in names if is_ours(name)}
    assert block.heads() == taken
    if not full:
        return
    inbox, prefect = Inbox(tmp_path / "inbox.sqlite"), DeployedPrefect()
    for name in taken:
        prefect.leads(name)
    async with prefect.client() as client:
        routes = await read_routes(client)
    found = look_at(inbox, "hello", block, routes).stored
    assert {delivery.branch: delivery.sha for delivery in found} == taken
    await Dispatcher(inbox, asyncio.Queue(), prefect.client).dispatch()
    assert sorted(prefect.commits()) == sorted(taken.items())


def test_a_branch_that_is_gone_is_not_taken_for_one_below_its_name(tmp_path: Path) -> None:
    bare, (sha,) = push_all(tmp_path, [("feature/x", "A change")])
    with pytest.raises(CommitNotOnBranch, match="is gone"):
        block_of(bare).find(Commit(repository="hello", branch="feature", sha=sha))
