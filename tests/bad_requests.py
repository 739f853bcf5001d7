"""Requests that must start nothing: mutated, unsigned, oversized, or no HTTP at all."""

import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from domain.github import MAX_BODY_BYTES, signature
from tests.arrivals import SECRET, push_body, sha_of, signed

_BRANCHES = ("", " ", "-x", "a..b", "a.lock", "a b", "x" * 300, "a\x00b", "*", "@{", "é")


@dataclass(frozen=True)
class BadRequest:
    """A request: its body, or as much as `bytes_sent` zeros."""

    kind: str
    headers: dict[str, str | bytes] = field(default_factory=dict)
    body: bytes = b""
    bytes_sent: int = 0

    def content(self) -> bytes | AsyncIterator[bytes]:
        """What is sent."""
        return self._zeros() if self.bytes_sent else self.body

    async def _zeros(self) -> AsyncIterator[bytes]:
        for _ in range(0, self.bytes_sent, 1 << 16):
            yield bytes(1 << 16)


class BadRequests:
    """As many as are wanted, with the random numbers of a seed."""

    def __init__(self, chance: random.Random, url: str) -> None:
        self._chance, self._url = chance, url

    def make(self, oversized: int, count: int) -> list[BadRequest]:
        """So many, of all kinds."""
        kinds: list[Callable[[], BadRequest]] = [
            self._unsigned, self._wrongly_signed, self._tampered, self._junk, self._headers,
            self._no_http,
        ]  # fmt: skip
        made = [self._oversized() for _ in range(oversized)]
        made += [self._chance.choice(kinds)() for _ in range(count - oversized)]
        self._chance.shuffle(made)
        return made

    def _push(self) -> bytes:
        text = str(self._chance.random())
        return push_body(self._url, f"bad-{text}", sha_of(text))

    def _unsigned(self) -> BadRequest:
        body = self._push()
        headers = signed(body)
        del headers["X-Hub-Signature-256"]
        return BadRequest("unsigned", {**headers}, body)

    def _wrongly_signed(self) -> BadRequest:
        body, pick = self._push(), self._chance.choice
        right = signature(SECRET, body)
        wrong: str | bytes = pick(
            [
                "", "sha256=", right[:-1], right.upper(), right + "0", right[7:],
                f"sha1={right[7:47]}", signature("", body), signature("another secret", body),
                signature(SECRET, body + b" "), b"sha256=\xff\xfe", b"\xe2\x80\xae" * 50,
                "0" * 9999,
            ]
        )  # fmt: skip
        return BadRequest("wrongly signed", signed(body) | {"X-Hub-Signature-256": wrong}, body)

    def _tampered(self) -> BadRequest:
        """Signed, then changed on its way."""
        body = self._push()
        headers, at = signed(body), self._chance.randrange(len(body))
        changed = bytearray(body)
        changed[at] ^= 1 << self._chance.randrange(8)
        cut = self._chance.choice([bytes(changed), body[:at], body[at:], body * 2, body + b"\n"])
        return BadRequest("tampered", {**headers}, cut if cut != body else b"")

    def _junk(self) -> BadRequest:
        """Signed by GitHub's secret, and no push of a commit."""
        body = self._chance.choice([self._noise, self._wrong_fields, self._deep])()
        return BadRequest("junk", {**signed(body)}, body)

    def _noise(self) -> bytes:
        return self._chance.randbytes(self._chance.randrange(200))

    def _deep(self) -> bytes:
        depth = self._chance.randrange(1, 100_000)
        return b'{"repository": ' + b"[" * depth + b"]" * self._chance.choice([0, depth]) + b"}"

    def _wrong_fields(self) -> bytes:
        """A push one of whose fields is of the wrong kind, or no name that is taken."""
        push = json.loads(self._push())
        name = self._chance.choice(["ref", "after", "repository", "head_commit", "deleted"])
        push[name] = self._value()
        if name in ("head_commit", "deleted"):
            push["after"] = self._value()
        return json.dumps(push).encode()

    def _value(self) -> Any:
        values = [None, True, 0, -1, 10**400, 1e308, "", "x" * 10_000, [], [[]], {}, {"id": {}}]
        branches = [f"refs/heads/{name}" for name in _BRANCHES[:-1]]
        return self._chance.choice(
            [*values, *branches, "refs/tags/v1", "0" * 40, "g" * 40, "A" * 40]
        )

    def _headers(self) -> BadRequest:
        """Signed, but without what GitHub's webhooks say."""
        body = self._push()
        name = self._chance.choice(["X-GitHub-Event", "X-GitHub-Delivery"])
        wrong: list[str | bytes] = [""]
        if name == "X-GitHub-Event":
            wrong += ["ping", "pull_request", "x" * 5000, b"\xff\xfe", "PUSH", "push, push"]
        else:
            wrong += ["x" * 101, "x" * 9999]
        return BadRequest("headers", signed(body) | {name: self._chance.choice(wrong)}, body)

    def _oversized(self) -> BadRequest:
        return BadRequest(
            "oversized",
            {**signed(b"")},
            bytes_sent=MAX_BODY_BYTES + self._chance.choice([1, 1 << 20]),
        )

    def _no_http(self) -> BadRequest:
        line = self._chance.choice(
            [
                b"", b"\r\n\r\n", b"POST /github\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                b"POST /github HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                b"POST /github HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort",
                b"POST /github HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"POST /github HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
                b"DELETE /github HTTP/1.1\r\nHost: x\r\n\r\n",
                b"POST /github/../../etc HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
                b"GET /%ff%00?%zz HTTP/1.1\r\nHost: \xff\r\n\r\n",
                self._chance.randbytes(self._chance.randrange(1, 500)),
            ]
        )  # fmt: skip
        return BadRequest("no HTTP", body=line)
