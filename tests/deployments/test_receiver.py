"""The HTTP door, with a real inbox behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from blocks.repository import GitHubRepository
from deployments.inbox import Delivery, Inbox
from deployments.receiver import KnownRepositories, Repositories, make_receiver
from domain.errors import ServerUnavailable
from domain.github import MAX_BODY_BYTES, signature
from tests.waiting import until

SHA = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"
NONE = "0" * 40
SECRET, OTHERS_SECRET = "the secret of hello", "the secret of other"
KNOWN = {
    "hello": GitHubRepository(
        url="https://github.com/example/hello.git", webhook_secret=SecretStr(SECRET)
    ),
    "other": GitHubRepository(
        url="git@github.com:example/other.git", webhook_secret=SecretStr(OTHERS_SECRET)
    ),
}


class Door:
    """The receiver, its inbox, what the dispatcher was told, and the secrets that it knows."""

    def __init__(self, folder: Path) -> None:
        self.inbox = Inbox(folder / "inbox.sqlite")
        self.stored: list[Delivery] = []
        self.known: Repositories | None = KNOWN
        app = make_receiver(self.inbox, self._repositories, self.stored.append)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://receiver"
        )

    async def _repositories(self) -> Repositories:
        if self.known is None:
            raise ServerUnavailable("Prefect's API does not answer.")
        return self.known

    async def deliver(
        self,
        body: bytes,
        *,
        event: str = "push",
        secret: str = SECRET,
        **headers: str | bytes | None,
    ) -> httpx.Response:
        """Deliver a body, signed; `headers` are changed (or with None, left out), - as _."""
        all_headers: dict[str, str | bytes | None] = {
            "x_github_event": event,
            "x_github_delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "x_hub_signature_256": signature(secret, body),
        }
        sent = {
            name.replace("_", "-"): value
            for name, value in (all_headers | headers).items()
            if value is not None
        }
        return await self.client.post("/github", content=body, headers=sent)

    @property
    def only(self) -> Delivery:
        """The one delivery in the inbox."""
        (delivery,) = self.inbox.latest()
        return delivery


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    made = Door(tmp_path)
    async with made.client:
        yield made


def push(**changed: Any) -> bytes:
    """The body of a push, as GitHub sends it, shortened."""
    head = {
        "id": SHA,
        "message": "Fix it\n\nBecause.",
        "author": {"name": "Ada", "email": "ada@example.com", "username": "ada"},
    }
    whole: dict[str, Any] = {
        "ref": "refs/heads/master",
        "before": NONE,
        "after": SHA,
        "deleted": False,
        "head_commit": head,
        "commits": [head],
        "repository": {
            "id": 1,
            "full_name": "example/hello",
            "clone_url": "https://github.com/example/hello.git",
        },
        "pusher": {"name": "ada"},
    }
    return json.dumps(whole | changed).encode()


# -- who is let in ----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [push(), b"", b"{", b"\xff" * 100])
@pytest.mark.parametrize(
    "header", [None, "", "sha256=" + "0" * 64, signature("guess", push()), b"sha256=\xfc\xff"]
)
async def test_what_nobody_signed_is_refused_before_it_is_read(
    door: Door, body: bytes, header: str | bytes | None
) -> None:
    answer = await door.deliver(body, x_hub_signature_256=header)
    assert answer.status_code == 401
    assert door.inbox.latest() == []
    assert door.stored == []


async def test_a_body_that_was_changed_on_its_way_is_refused(door: Door) -> None:
    header = signature(SECRET, push())
    answer = await door.deliver(push(after="1" * 40), x_hub_signature_256=header)
    assert answer.status_code == 401


async def test_nobody_is_let_in_where_no_repository_is_configured(door: Door) -> None:
    door.known = {}
    assert (await door.deliver(push(), secret="")).status_code == 401


async def test_the_secret_of_another_repository_starts_nothing(door: Door) -> None:
    answer = await door.deliver(push(), secret=OTHERS_SECRET)
    assert answer.status_code == 202
    assert door.only.state == "ignored"
    assert "'example/hello' is not configured" in door.only.reason
    assert door.inbox.waiting() == []


async def test_each_repository_is_known_by_its_own_secret(door: Door) -> None:
    names = {"full_name": "example/other", "clone_url": "https://github.com/example/other.git"}
    await door.deliver(push(repository=names), secret=OTHERS_SECRET)
    assert door.only.repository == "other"


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"not json", b"payload=%7B%7D", b"[]", push(ref=1)])
async def test_a_signed_body_that_is_no_delivery_is_refused(door: Door, body: bytes) -> None:
    answer = await door.deliver(body)
    assert answer.status_code == 400
    assert "content type" in answer.json()["error"]
    assert door.inbox.latest() == []


@pytest.mark.parametrize(
    "headers",
    [{"x_github_event": None}, {"x_github_delivery": None}, {"x_github_delivery": "1" * 101}],
)
async def test_a_signed_request_without_githubs_headers_is_refused(
    door: Door, headers: dict[str, str | None]
) -> None:
    assert (await door.deliver(push(), **headers)).status_code == 400


async def test_a_body_above_githubs_limit_is_refused_without_reading_it_all(door: Door) -> None:
    chunk, sent = bytes(1 << 20), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += len(chunk)
            yield chunk

    answer = await door.client.post("/github", content=endless())
    assert answer.status_code == 413
    assert sent <= MAX_BODY_BYTES + 2 * len(chunk)
    assert door.inbox.latest() == []


async def test_the_door_is_for_posts(door: Door) -> None:
    assert (await door.client.get("/github")).status_code == 405


# -- what is kept -----------------------------------------------------------------------------


async def test_a_push_is_kept_and_waits_for_its_run(door: Door) -> None:
    answer = await door.deliver(push())
    assert answer.status_code == 202
    assert answer.json() == {
        "delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "new": True,
        "state": "waiting",
        "reason": "",
    }
    wanted = Delivery(answer.json()["delivery"], "push", "hello", "master", SHA, "Fix it", "Ada")
    assert door.inbox.waiting() == [wanted]
    assert door.stored == [wanted]


async def test_the_same_delivery_is_kept_once(door: Door) -> None:
    answers = [await door.deliver(push()) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.json()["new"] for answer in answers] == [True, False]
    assert len(door.inbox.latest()) == len(door.stored) == 1


async def test_a_branch_with_a_foreign_letter_waits_for_its_run(door: Door) -> None:
    await door.deliver(push(ref="refs/heads/feature/ü"))
    (waiting,) = door.inbox.waiting()
    assert waiting.branch == "feature/ü"


@pytest.mark.parametrize(
    ("event", "changed", "reason"),
    [
        ("ping", {"zen": "Keep it logically awesome.", "hook_id": 1}, "'ping' event"),
        ("push", {"ref": "refs/tags/v1"}, "'refs/tags/v1' is not a branch"),
        ("push", {"after": NONE, "deleted": True, "head_commit": None}, "was deleted"),
        ("push", {"ref": "refs/heads/--upload-pack=x"}, "'--upload-pack=x' is not a branch name"),
        ("push", {"repository": {"full_name": "example/x"}}, "'example/x' is not configured"),
        ("push", {"repository": None}, "'without a name' is not configured"),
        ("push", {"repository": {"full_name": "x" * 9000}}, "… is not configured"),
    ],
)
async def test_what_starts_no_run_is_kept_with_its_reason(
    door: Door, event: str, changed: dict[str, Any], reason: str
) -> None:
    answer = await door.deliver(push(**changed), event=event)
    assert answer.status_code == 202
    assert answer.json()["state"] == door.only.state == "ignored"
    assert reason.replace("… ", "…' ") in door.only.reason
    assert len(door.only.reason) < 300
    assert door.inbox.waiting() == []
    assert door.stored == [door.only]


async def test_what_cannot_be_kept_is_not_taken(door: Door) -> None:
    with door.inbox._open() as db:
        db.execute("DROP TABLE deliveries")
    answer = await door.deliver(push())
    assert answer.status_code == 503
    assert door.stored == []


async def test_deliveries_that_come_at_once_are_kept_together_each_with_its_own_answer(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    store_all = door.inbox.store_all

    def counted(deliveries: Sequence[Delivery]) -> list[tuple[bool, Delivery]]:
        sizes.append(len(deliveries))
        return store_all(deliveries)

    monkeypatch.setattr(door.inbox, "store_all", counted)
    ids = [f"id {number // 2}" for number in range(60)]
    answers = await asyncio.gather(*(door.deliver(push(), x_github_delivery=i) for i in ids))
    assert [answer.json()["delivery"] for answer in answers] == ids
    assert sum(answer.json()["new"] for answer in answers) == len(door.stored) == 30
    assert sum(sizes) == 60
    assert len(sizes) < 10


async def test_all_that_cannot_be_kept_together_are_refused_and_none_waits_for_ever(
    door: Door,
) -> None:
    with door.inbox._open() as db:
        db.execute("ALTER TABLE deliveries RENAME TO away")
    ids = [f"id {number}" for number in range(20)]
    answers = await asyncio.gather(*(door.deliver(push(), x_github_delivery=i) for i in ids))
    assert {answer.status_code for answer in answers} == {503}
    with door.inbox._open() as db:
        db.execute("ALTER TABLE away RENAME TO deliveries")
    assert (await door.deliver(push())).status_code == 202


async def test_health_says_how_many_deliveries_wait(door: Door) -> None:
    await door.deliver(push())
    answer = await door.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"waiting": 1})


# -- which repositories are known -------------------------------------------------------------


async def test_without_prefects_api_nothing_is_taken_so_that_github_shows_it(door: Door) -> None:
    door.known = None
    answer = await door.deliver(push())
    assert answer.status_code == 503
    assert door.inbox.latest() == []


async def test_the_repositories_known_last_serve_while_prefects_api_is_away(door: Door) -> None:
    known = KnownRepositories(door._repositories, seconds=0)
    assert await known() == KNOWN
    door.known = None
    assert await known() == KNOWN
    door.known = {}
    assert await known() == {}


async def test_repositories_are_asked_for_at_most_once_in_a_while(door: Door) -> None:
    known = KnownRepositories(door._repositories, seconds=3600)
    assert await known() == KNOWN
    door.known = {}
    assert await known() == KNOWN


async def test_repositories_are_read_again_before_somebody_has_to_wait_for_it(door: Door) -> None:
    known = KnownRepositories(door._repositories, seconds=0.01)
    keeping = asyncio.create_task(known.run())
    try:
        await until(lambda: known._known == KNOWN)
        door.known = None
        await asyncio.sleep(0)
        door.known = {}
        await until(lambda: known._known == {})
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_repositories_are_read_again_at_once_when_a_block_has_changed(door: Door) -> None:
    known = KnownRepositories(door._repositories, seconds=3600)
    keeping = asyncio.create_task(known.run())
    try:
        await until(lambda: known._known == KNOWN)
        door.known = {}
        known.forget()
        assert await known() == {}
        door.known = KNOWN
        known.forget()
        await until(lambda: known._known == KNOWN)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_block_that_changes_while_they_are_read_is_not_missed() -> None:
    answers = [KNOWN, {}]

    async def read() -> Repositories:
        known.forget()
        return answers.pop(0)

    known = KnownRepositories(read, seconds=3600)
    assert await known() == KNOWN
    assert await known() == {}


async def test_prefects_api_being_away_at_the_start_is_an_error(door: Door) -> None:
    door.known = None
    known = KnownRepositories(door._repositories)
    with pytest.raises(ServerUnavailable):
        await known()
    door.known = KNOWN
    assert await known() == KNOWN
