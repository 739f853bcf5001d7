"""Loading blocks by name, with a message that helps where one is missing."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from pkgutil import resolve_name
from typing import Any, TypeVar

from prefect import get_client
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound

from blocks.prefect_tls import shared_tls
from blocks.process import in_run
from domain.errors import UnknownBlock
from domain.names import one_line

AnyBlock = TypeVar("AnyBlock", bound=Block)
_PAGE = 200
_FRESH_SECONDS = 10.0
log = logging.getLogger("samebits.blocks")


def load(kind: type[AnyBlock], name: str) -> AnyBlock:
    """The block of this kind and name. Raises UnknownBlock where there is none, or it is broken.

    Blocks are loaded by name where they are needed: a block that is passed as a parameter would be
    stored with its secrets masked.
    """
    block: AnyBlock = _one_of({kind.get_block_type_slug(): kind}, name)
    return block


def load_one_of(kinds: Mapping[str, str], name: str) -> Any:
    """The block of this name, of whichever of these kinds it is: slug and `module:class` of each.

    Raises UnknownBlock where there is none, it is broken, or two kinds have one of this name.
    """
    return _one_of(kinds, name)


def read_ahead(*names: str) -> None:
    """In a run, read the blocks of all these names at once: a step needs them one by one.

    What is there is read again after some seconds only. Called in a step, which is tried again
    where Prefect's API is away.
    """
    if not in_run():
        return
    with _taking:
        while _begun:
            _, begun = _begun.pop()
            _keep(*begun.result())
    now = time.monotonic()
    if missing := _missing(names):
        _keep(now, _read_all(missing, _client()))


def read_meanwhile(*names: str | None, then: Callable[[], None] = lambda: None) -> None:
    """In a run, begin to read these; a step that reads ahead takes them, or raises what went wrong.

    Prefect begins the run, and the first step, meanwhile. What was read, or is being read, is left
    out, and so is a name that is None. With them at hand, `then` is called, which may not raise.
    """
    if not in_run():
        return
    wanted = _missing(filter(None, names)).difference(*(being_read for being_read, _ in _begun))
    if not wanted:
        return
    # Made here: that reads the environment through, of which Prefect's engine takes parts away.
    client = _client()
    begun: Future[tuple[float, dict[str, _Called]]] = Future()
    _begun.append((wanted, begun))

    def read() -> None:
        now = time.monotonic()
        try:
            begun.set_result((now, _read_all(wanted, client)))
        except BaseException as error:  # noqa: BLE001 - the step raises it
            begun.set_exception(error)
        else:
            then()

    # Where the API is away this takes a minute: the process may end before.
    threading.Thread(target=copy_context().run, args=(read,), daemon=True).start()


class _Called:
    """The blocks of one name, as they were read; each is made when it is first needed."""

    def __init__(self, name: str, documents: Iterable[BlockDocument]) -> None:
        self.name = name
        self._documents = {
            each.block_type.slug: each
            for each in documents
            if each.name == name and each.block_type
        }
        self._blocks: dict[str, Any] = {}

    def one_of(self, kinds: Mapping[str, str | type[Block]]) -> Any:
        """The one block of these kinds; raises UnknownBlock."""
        there = [slug for slug in kinds if slug in self._documents]
        if not there:
            kind = "the kind" if len(kinds) == 1 else "any of these kinds:"
            raise UnknownBlock(
                f"There is no block called {self.name!r} of {kind} {', '.join(kinds)}.",
                hint="Create one in the Prefect UI, under Blocks, or correct the name.",
            )
        if len(there) > 1:
            raise UnknownBlock(
                f"Several blocks are called {self.name!r}: "
                f"{', '.join(f'{slug}/{self.name}' for slug in there)}.",
                why="Which of them is meant is not clear.",
                hint="Delete all but one in the Prefect UI, or give them names of their own.",
            )
        return self._made(there[0], kinds[there[0]])

    def _made(self, slug: str, named: str | type[Block]) -> Any:
        kind: type[Block] = resolve_name(named) if isinstance(named, str) else named
        if slug not in self._blocks:
            try:
                # As Prefect's load() does; each time it tells an event of it.
                self._blocks[slug] = kind._from_block_document(self._documents[slug])  # noqa: SLF001
            except ValueError as error:
                raise _broken(slug, self.name, error) from error
        return self._blocks[slug]


# In the process of a run: the blocks of each name, and until when they are taken for fresh.
_read: dict[str, _Called] = {}
_fresh_until: dict[str, float] = {}
_begun: "list[tuple[set[str], Future[tuple[float, dict[str, _Called]]]]]" = []
"""What is being read: the names, and when that was begun and the blocks"""
_taking = threading.Lock()


def _missing(names: Iterable[str]) -> set[str]:
    """Those that were not read, or too long ago."""
    now = time.monotonic()
    return {name for name in names if now >= _fresh_until.get(name, 0.0)}


def _keep(read_at: float, blocks: Mapping[str, _Called]) -> None:
    _read.update(blocks)
    _fresh_until.update(dict.fromkeys(blocks, read_at + _FRESH_SECONDS))


def _one_of(kinds: Mapping[str, str | type[Block]], name: str) -> Any:
    read_ahead(name)
    called = _read.get(name) or _read_all({name}, _client())[name]
    return called.one_of(kinds)


def _client() -> SyncPrefectClient:
    return get_client(sync_client=True, httpx_settings=shared_tls())


def _read_all(names: set[str], client: SyncPrefectClient) -> dict[str, _Called]:
    wanted = {
        "block_documents": {"name": {"any_": sorted(names)}, "is_anonymous": {"eq_": False}},
        "include_secrets": True,
    }
    with client:
        found = client.request("POST", "/block_documents/filter", json=wanted).json()
    documents = [BlockDocument.model_validate(each) for each in found]
    return {name: _Called(name, documents) for name in names}


async def load_if_there(client: PrefectClient, kind: type[AnyBlock], name: str) -> AnyBlock | None:
    """The block of this kind and name, None where there is none; UnknownBlock if it is broken."""
    slug = kind.get_block_type_slug()
    try:
        document = await client.read_block_document_by_name(name, slug)
        return _quietly(kind, document)
    except ObjectNotFound:
        return None
    except ValueError as error:
        raise _broken(slug, name, error) from error


async def load_all(client: PrefectClient, kind: type[AnyBlock]) -> dict[str, AnyBlock]:
    """Every block of a kind, by name; one that cannot be read is left out, and logged."""
    found: dict[str, AnyBlock] = {}
    documents = await client.read_block_documents_by_type(
        kind.get_block_type_slug(), include_secrets=True
    )
    for document in documents:
        try:
            found[document.name or ""] = _quietly(kind, document)
        except ValueError as error:
            log.error("block %s: %s", document.name, one_line(str(error), 200))  # noqa: TRY400
    return found


def _quietly(kind: type[AnyBlock], document: BlockDocument) -> AnyBlock:
    """The block of a document, which who looks every few seconds tells no event of."""
    return kind.model_validate(document.data)


async def block_names(client: PrefectClient, kind: type[Block]) -> set[str]:
    """The names of every block of a kind, also of those that cannot be read."""
    names: list[str] = []
    while True:
        page = await client.read_block_documents_by_type(
            kind.get_block_type_slug(), offset=len(names), limit=_PAGE
        )
        names += [document.name or "" for document in page]
        if len(page) < _PAGE:
            return set(names)


def _broken(slug: str, name: str, error: Exception) -> UnknownBlock:
    return UnknownBlock(
        f"The block {slug}/{name} cannot be loaded.",
        why=one_line(str(error), 200),
        hint="Create or correct it in the Prefect UI, under Blocks.",
    )
