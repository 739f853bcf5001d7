"""The systems that blocks lead to: registries, repositories, stacks, the channel."""

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

from blocks.channel import SlackChannel
from blocks.contracts import ImageRegistry, Stack
from blocks.docker_stack import DockerStack
from blocks.inventory import Inventory
from blocks.registry import Registry
from blocks.repository import GitHubRepository
from deployments.checks.checking import Scene, after, checked, in_thread
from deployments.service import CHANNEL
from domain.commit import ANY_BRANCH
from domain.health import Finding, failed, ok, warning
from domain.routing import Route, route

_MOST_NAMED = 3
_NO_TAG = "samebits-doctor"


async def check_rooms(
    scene: Scene, inventory: Inventory, routes: Sequence[Route], engine: Sequence[Finding]
) -> list[Finding]:
    """Each registry, repository, stack and the channel, at once."""
    repositories, channel = inventory.repositories, inventory.channels.get(CHANNEL)
    users: dict[str, list[str]] = {name: [] for name in inventory.registries}
    for name, block in sorted(repositories.items()):
        users.setdefault(block.registry, []).append(name)
    found = await asyncio.gather(
        *(
            checked(scene, f"registry {name}", partial(_registry, name, inventory, used))
            for name, used in sorted(users.items())
        ),
        *(
            checked(scene, f"git {name}", partial(_repository, name, block, routes))
            for name, block in sorted(repositories.items())
        ),
        *(
            after(
                scene,
                engine if _is_here(block) else (),
                f"stack {name}",
                partial(_stack, name, block),
            )
            for name, block in sorted(inventory.stacks.items())
        ),
        checked(scene, "channel", partial(_channel, scene, channel)),
    )
    return [finding for findings in found for finding in findings]


def _is_here(stack: Stack) -> bool:
    """Whether a stack is on the engine of this host."""
    return isinstance(stack, DockerStack) and not stack.engine.base_url


async def _registry(name: str, inventory: Inventory, users: Sequence[str]) -> list[Finding]:
    what = f"registry {name}"
    registry = inventory.registries.get(name)
    if registry is None:
        said = f"{', '.join(users)} is published there, and no block of that name loads."
        hint = "Create it in the Prefect UI, under Blocks; or correct the repository's block."
        return [failed(what, said, hint)]
    return [ok(what, await in_thread(lambda: _asked(registry, users)))]


def _asked(registry: ImageRegistry, users: Sequence[str]) -> str:
    """Ask for a tag that there is not, where a run would publish; raises what a run would."""
    registry.auth()
    asked = list(users) or ([_NO_TAG] if isinstance(registry, Registry) else [])
    for user in asked:
        registry.manifest(registry.repository(user), _NO_TAG)
    return f"answers for {', '.join(users)}" if users else "answers; no repository publishes there"


async def _repository(name: str, block: GitHubRepository, routes: Sequence[Route]) -> list[Finding]:
    heads = await in_thread(block.heads)
    return [judge_repository(name, block.public_url, heads, routes)]


def judge_repository(
    name: str, url: str, branches: Collection[str], routes: Sequence[Route]
) -> Finding:
    """How a repository stands whose git server answers."""
    said = f"{url} answers, with {len(branches)} branches"
    mine = [r for r in routes if r.repository == name]
    nowhere = sorted(b for b in branches if route(mine, name, b) is None)
    if mine and nowhere:
        more = f" and {len(nowhere) - _MOST_NAMED} more" if len(nowhere) > _MOST_NAMED else ""
        return warning(
            f"git {name}",
            f"These branches lead nowhere: {', '.join(nowhere[:_MOST_NAMED])}{more}.",
            f'Add entries for them to prefect.yaml, or one for "{ANY_BRANCH}"; then make apply.',
        )
    return ok(f"git {name}", said)


async def _stack(name: str, stack: Stack) -> list[Finding]:
    serving = await in_thread(lambda: stack.serving(name))
    if serving is None:
        return [ok(f"stack {name}", "answers; nothing serves yet")]
    return [ok(f"stack {name}", f"serves {serving.sha[:8] or serving.digest[:19]}")]


async def _channel(scene: Scene, block: SlackChannel | None) -> list[Finding]:
    twin = scene.settings.channel_file
    if block is None:
        return [ok("channel", f"no block {CHANNEL}: messages go to {twin}")]
    said = await in_thread(block.check)
    return [ok("channel", said or f"no token: messages go to {twin}")]
