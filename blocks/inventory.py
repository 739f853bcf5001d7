"""What there is at Prefect: every block of our types, also those that cannot be loaded."""

from collections.abc import Collection
from dataclasses import dataclass, field

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError

from blocks import all as kinds
from blocks.channel import SlackChannel
from blocks.contracts import ImageRegistry, Stack
from blocks.engine import DockerHost
from blocks.loading import AnyBlock
from blocks.named import REGISTRIES, STACKS
from blocks.prefect_api import PIPELINE, PRUNE, REDEPLOY
from blocks.repository import GitHubRepository
from domain.errors import UnknownBlock, explained
from domain.names import one_line

_PAGE = 200
_KINDS: list[type[Block]] = [getattr(kinds, name) for name in kinds.__all__]
_CORRECT = "Correct it in the Prefect UI, under Blocks."


@dataclass
class Inventory:
    """The blocks that load, and an error for each that does not."""

    loaded: list[tuple[str, Block]] = field(default_factory=list)
    """Name and block"""
    faults: list[UnknownBlock] = field(default_factory=list)

    @property
    def repositories(self) -> dict[str, GitHubRepository]:
        """The repositories by name."""
        return self._of(GitHubRepository)

    @property
    def registries(self) -> dict[str, ImageRegistry]:
        """The registries by name, of whichever kind."""
        return {name: block for name, block in self.loaded if isinstance(block, ImageRegistry)}

    @property
    def stacks(self) -> dict[str, Stack]:
        """The stacks by name, of whichever kind."""
        return {name: block for name, block in self.loaded if isinstance(block, Stack)}

    @property
    def channels(self) -> dict[str, SlackChannel]:
        """The channels by name."""
        return self._of(SlackChannel)

    @property
    def engines(self) -> dict[str, DockerHost]:
        """The Docker engines by name."""
        return self._of(DockerHost)

    def _of(self, kind: type[AnyBlock]) -> dict[str, AnyBlock]:
        return {name: block for name, block in self.loaded if isinstance(block, kind)}


async def take_inventory(client: PrefectClient) -> Inventory:
    """Load every block of our types."""
    found = Inventory()
    for kind in _KINDS:
        await _take(client, kind, found)
    for alternatives in (REGISTRIES, STACKS):
        found.faults += _doubled(found, alternatives)
    return found


async def _take(client: PrefectClient, kind: type[Block], found: Inventory) -> None:
    slug = kind.get_block_type_slug()
    try:
        documents = await client.read_block_documents_by_type(
            slug, limit=_PAGE, include_secrets=True
        )
    except ObjectNotFound:
        return  # the server has never seen a block of this kind
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status < 500 or status == 503:
            raise
        found.faults.append(
            UnknownBlock(
                f"No block of the kind {slug} can be read: Prefect answered {status}.",
                why=one_line(error.response.text, 200),
                hint="Was PREFECT_SERVER_ENCRYPTION_KEY changed? Without the key of before, blocks "
                "are lost. See the log of Prefect's server.",
            )
        )
        return
    for document in documents:
        name = document.name or ""
        try:
            # As load() does, but Prefect is told of no event.
            found.loaded.append((name, kind.model_validate(document.data)))
        except (ValueError, KeyError) as error:
            found.faults.append(
                UnknownBlock(f"{slug}/{name} cannot be loaded.", why=_why(error), hint=_CORRECT)
            )


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):  # without the values, which may be secrets
        return one_line("; ".join(explained(error)), 300)
    return one_line(f"{type(error).__name__}: {error}", 300)


def _doubled(found: Inventory, alternatives: Collection[str]) -> list[UnknownBlock]:
    """An error for each name that blocks of several of these kinds have."""
    slugs: dict[str, list[str]] = {}
    for name, block in found.loaded:
        if (slug := block.get_block_type_slug()) in alternatives:
            slugs.setdefault(name, []).append(slug)
    return [
        UnknownBlock(
            f"Several blocks are called {name!r}: {', '.join(f'{s}/{name}' for s in several)}.",
            why="Which of them is meant is not clear.",
            hint="Delete all but one in the Prefect UI, or give them names of their own.",
        )
        for name, several in slugs.items()
        if len(several) > 1
    ]


async def read_applied(client: PrefectClient) -> list[DeploymentResponse]:
    """The deployments of our flows."""
    flows = FlowFilter(name=FlowFilterName(any_=[PIPELINE, REDEPLOY, PRUNE]))
    found: list[DeploymentResponse] = []
    while True:
        page = await client.read_deployments(flow_filter=flows, limit=_PAGE, offset=len(found))
        found += page
        if len(page) < _PAGE:
            return found
