"""Disks and clock of this host."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect.blocks.core import Block

from blocks.aws import AwsCredentials
from blocks.disk import free_mib
from blocks.inventory import Inventory
from blocks.registry import Registry, is_loopback
from blocks.repository import GitHubRepository
from deployments.checks.checking import Scene
from domain.health import SKEW_SECONDS, Finding, failed, lasting, ok, skew_seconds, warning

CLOCK = "clock"
_SLOWEST = 5.0


# -- disk -------------------------------------------------------------------------------------


def check_disk(scene: Scene, engine_folder: Path | None) -> list[Finding]:
    """Whether a build would find the space that it is to find, wherever it writes."""
    found = [_space("disk of the data folder", scene.settings.home, scene.settings.least_free_mib)]
    if engine_folder:
        found.append(_space("disk of the engine", engine_folder, scene.settings.least_free_mib))
    return found


def _space(what: str, folder: Path, least_mib: int) -> Finding:
    free = free_mib(folder)
    said = f"{free} MiB are free in {folder}"
    if free >= least_mib:
        return ok(what, said)
    return failed(
        what,
        f"{said}; a build starts only if {least_mib} are (SAMEBITS_LEAST_FREE_MIB).",
        "Free space: samebits prune, and Disk in docs/operating.md.",
    )


# -- clock ------------------------------------------------------------------------------------


async def check_clock(scene: Scene, inventory: Inventory | None) -> list[Finding]:
    """Whether this host and the others that it talks to mean the same moment."""
    urls = {
        scene.api_url,
        *remote_urls(block for _, block in (inventory.loaded if inventory else [])),
    }
    remote = {_origin(url) for url in urls if not is_loopback(urlsplit(url).netloc)}
    if not remote:
        return [ok(CLOCK, "no other host to compare it with")]
    asked = await asyncio.gather(*(skew_of(url) for url in sorted(remote)))
    known = {url: skew for url, skew in asked if skew is not None}
    if not known:
        return [ok(CLOCK, "not compared: no other host said what time it is")]
    return [judge_clock(known)]


def judge_clock(skews: dict[str, float]) -> Finding:
    """How the clock stands: by how many seconds it is ahead of each server's."""
    url, worst = max(skews.items(), key=lambda found: abs(found[1]))
    if abs(worst) <= SKEW_SECONDS:
        return ok(CLOCK, f"as that of {', '.join(sorted(urlsplit(u).netloc for u in skews))}")
    way = "ahead of" if worst > 0 else "behind"
    return warning(
        CLOCK,
        f"It is {lasting(abs(worst))} {way} that of {urlsplit(url).netloc}.",
        "Set it, e.g. with timedatectl set-ntp true: TLS, AWS and GitHub refuse a wrong clock.",
    )


def remote_urls(blocks: Iterable[Block]) -> Iterable[str]:
    """The URLs of what these blocks lead to, where HTTP is spoken there."""
    for block in blocks:
        if isinstance(block, Registry):
            yield f"https://{block.address}/v2/"
        elif isinstance(block, GitHubRepository) and block.url.startswith("https://"):
            yield block.public_url
        elif isinstance(credentials := getattr(block, "credentials", None), AwsCredentials):
            own = credentials.aws_client_parameters.endpoint_url
            yield own or f"https://sts.{credentials.region_name}.amazonaws.com/"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


async def skew_of(url: str) -> tuple[str, float | None]:
    """The URL, and by how many seconds this clock is ahead of its server's, as far as it says."""
    before = datetime.now(UTC)
    try:
        async with httpx.AsyncClient(timeout=_SLOWEST) as client:
            answer = await client.head(url)
    except httpx.HTTPError:
        return url, None
    return url, skew_seconds(answer.headers.get("Date", ""), before, datetime.now(UTC))
