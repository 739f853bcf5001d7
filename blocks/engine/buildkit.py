"""BuildKit's progress as lines of a log.

`POST /build?version=2` answers with JSON lines; those with the id `moby.buildkit.trace` hold a
base64 protobuf, the StatusResponse of
https://github.com/moby/buildkit/blob/master/api/services/control/control.proto . A few of its
fields are enough for a log, so they are read here without generated code.
"""

import base64
from collections.abc import Iterator
from contextlib import suppress

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VERTEXES, _LOGS = 1, 3
_VERTEX_DIGEST, _VERTEX_NAME, _VERTEX_CACHED, _VERTEX_COMPLETED, _VERTEX_ERROR = 1, 3, 4, 6, 7
_LOG_VERTEX, _LOG_MESSAGE = 1, 4
_MOST_VARINT_BITS = 64

Value = int | bytes


class Progress:
    """Remembers which steps it has told, and cuts the log of each into whole lines."""

    def __init__(self) -> None:
        self._told: set[tuple[bytes, str]] = set()
        self._rests: dict[bytes, bytes] = {}

    def lines(self, aux: str) -> Iterator[str]:
        """The new lines in one trace message (base64); none from where it cannot be read."""
        ended = []
        # A log that cannot be read must not fail the build.
        with suppress(ValueError):
            for field, value in _fields(base64.b64decode(aux)):
                if not isinstance(value, bytes):
                    continue
                if field == _VERTEXES:
                    vertex = dict(_fields(value))
                    yield from self._step(vertex)
                    if _VERTEX_COMPLETED in vertex:
                        ended.append(_bytes(vertex, _VERTEX_DIGEST))
                elif field == _LOGS:
                    yield from self._log(dict(_fields(value)))
        # The last line of a step may have no end; steps stand before logs in a message.
        for vertex_digest in ended:
            if rest := self._rests.pop(vertex_digest, b""):
                yield _line(rest)

    def _step(self, vertex: dict[int, Value]) -> Iterator[str]:
        state = (
            "CACHED"
            if vertex.get(_VERTEX_CACHED)
            else "DONE"
            if _VERTEX_COMPLETED in vertex and _VERTEX_ERROR not in vertex
            else ""
        )
        told = (_bytes(vertex, _VERTEX_DIGEST), state)
        name = _bytes(vertex, _VERTEX_NAME).decode(errors="replace")
        if told in self._told or name.startswith(("[internal]", "copy /context")):
            return
        self._told.add(told)
        yield f"{state} {name}".strip()

    def _log(self, log: dict[int, Value]) -> Iterator[str]:
        # Steps run at the same time: each has a rest of its own.
        vertex, text = _bytes(log, _LOG_VERTEX), _bytes(log, _LOG_MESSAGE)
        *whole, rest = (self._rests.get(vertex, b"") + text).split(b"\n")
        self._rests[vertex] = rest
        yield from (_line(line) for line in whole)


def _line(text: bytes) -> str:
    return "  " + text.decode(errors="replace").rstrip()


def _bytes(fields: dict[int, Value], number: int) -> bytes:
    value = fields.get(number, b"")
    return value if isinstance(value, bytes) else b""


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a protobuf message: number, and integer or bytes. Raises ValueError for bytes
    that are none.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        result = shift = 0
        while at < len(message) and shift < _MOST_VARINT_BITS:
            byte = message[at]
            at += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result
        raise ValueError("an integer without an end")

    while at < len(message):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            yield number, varint()
            continue
        if wire == _BYTES:
            size = varint()
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire}")
        yield number, message[at : at + size]
        at += size
