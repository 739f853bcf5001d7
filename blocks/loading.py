"""Loading blocks by name, with a message that helps where one is missing."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pkgutil import resolve_name
from typing import Any, TypeVar, cast

from prefect import get_client
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound

from blocks.process import in_run
from domain.errors import UnknownBlock
from domain.names import one_line

AnyBlock = TypeVar("AnyBlock", bound=Block)
_PAGE = 200
_FRESH_SECONDS = 10.0
_read: dict[tuple[str, ...], tuple[float, Any]] = {}
log = logging.getLogger("samebits.blocks")


def load(kind: type[AnyBlock], name: str) -> AnyBlock:
    """The block of this kind and name. Raises UnknownBlock where there is none, or it is broken.

    Blocks are loaded by name where they are needed: a block that is passed as a parameter would be
    stored with its secrets masked.
    """
    slug = kind.get_block_type_slug()

    def read() -> AnyBlock:
        try:
            return cast("AnyBlock", kind.load(name, validate=True, _sync=True))  # type: ignore[call-arg]
        except (ValueError, RuntimeError) as error:
            raise _broken(slug, name, error) from error

    return cast("AnyBlock", _remembered((slug, name), read))


def load_one_of(kinds: Mapping[str, str], name: str) -> Any:
    """The block of this name, of whichever of these kinds it is: slug and `module:class` of each.

    Raises UnknownBlock where there is none, it is broken, or two kinds have one of this name.
    """
    return _remembered((*kinds, name), lambda: _read_one_of(kinds, name))


def _read_one_of(kinds: Mapping[str, str], name: str) -> Any:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/block_documents/filter", json=_called(name, kinds)).json()
    there = {document["block_type"]["slug"]: document for document in found}
    if not there:
        raise UnknownBlock(
            f"There is no block called {name!r} of any of these kinds: {', '.join(kinds)}.",
            hint="Create one in the Prefect UI, under Blocks, or correct the name.",
        )
    if len(there) > 1:
        raise UnknownBlock(
            f"Several blocks are called {name!r}: {', '.join(f'{s}/{name}' for s in there)}.",
            why="Which of them is meant is not clear.",
            hint="Delete all but one in the Prefect UI, or give them names of their own.",
        )
    ((slug, document),) = there.items()
    kind: type[Block] = resolve_name(kinds[slug])
    try:
        return kind._from_block_document(BlockDocument.model_validate(document))  # noqa: SLF001 - as load() does
    except ValueError as error:
        raise _broken(slug, name, error) from error


def _remembered(key: tuple[str, ...], read: Callable[[], Any]) -> Any:
    """What `read` reads; in the process of a run again after some seconds only.

    The steps of a run need the same blocks one after the other.
    """
    now = time.monotonic()
    until, block = _read.get(key, (0.0, None))
    if now >= until:
        block = read()
        if in_run():
            _read[key] = now + _FRESH_SECONDS, block
    return block


def _called(name: str, kinds: Iterable[str]) -> dict[str, Any]:
    """What asks for all blocks of this name of these kinds, at once."""
    return {
        "block_documents": {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}},
        "block_types": {"slug": {"any_": list(kinds)}},
        "include_secrets": True,
    }


async def load_if_there(client: PrefectClient, kind: type[AnyBlock], name: str) -> AnyBlock | None:
    """The block of this kind and name, None where there is none; UnknownBlock if it is broken."""
    slug = kind.get_block_type_slug()
    try:
        document = await client.read_block_document_by_name(name, slug)
        return kind._from_block_document(document)  # noqa: SLF001 - as load() does
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
            found[document.name or ""] = kind._from_block_document(document)  # noqa: SLF001 - as load() does
        except ValueError as error:
            log.error("block %s: %s", document.name, one_line(str(error), 200))  # noqa: TRY400
    return found


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
