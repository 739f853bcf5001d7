from pkgutil import resolve_name

from blocks import all as blocks
from blocks.contracts import ImageRegistry, Stack
from blocks.named import REGISTRIES, STACKS


def test_every_kind_of_registry_and_stack_is_found_under_its_own_slug() -> None:
    kinds = [getattr(blocks, name) for name in blocks.__all__]
    for table, contract in ((REGISTRIES, ImageRegistry), (STACKS, Stack)):
        expected = {
            kind.get_block_type_slug(): kind for kind in kinds if issubclass(kind, contract)
        }
        assert {slug: resolve_name(named) for slug, named in table.items()} == expected
