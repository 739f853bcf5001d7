"""The channel that the service tells: as its block says, read again where a block has changed."""

from pathlib import Path
from typing import Any

import pytest

from blocks.channel import SlackChannel
from deployments import service
from deployments.service import _KnownChannel
from deployments.settings import SystemSettings
from domain.errors import ServerUnavailable

CLIENT: Any = None


class Blocks:
    """What Prefect says of the channel's block, and how often it was asked."""

    def __init__(self) -> None:
        self.block: SlackChannel | None = None
        self.asked = 0
        self.meanwhile = lambda: None
        self.fault: Exception | None = None

    async def load_if_there(self, *_: Any) -> SlackChannel | None:
        self.asked += 1
        found = self.block
        self.meanwhile()
        if self.fault:
            raise self.fault
        return found


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Blocks:
    found = Blocks()
    monkeypatch.setattr(service, "load_if_there", found.load_if_there)
    return found


@pytest.fixture
def channel(blocks: Blocks, tmp_path: Path) -> _KnownChannel:
    return _KnownChannel(SystemSettings(home=tmp_path))


async def test_its_block_is_read_again_after_a_block_has_changed(
    blocks: Blocks, channel: _KnownChannel
) -> None:
    first = await channel(CLIENT)
    assert await channel(CLIENT) is first
    assert blocks.asked == 1
    channel.forget()
    assert await channel(CLIENT) is not first
    assert blocks.asked == 2


async def test_a_change_while_it_is_read_is_not_missed(
    blocks: Blocks, channel: _KnownChannel
) -> None:
    blocks.meanwhile = channel.forget
    await channel(CLIENT)
    blocks.meanwhile = lambda: None
    await channel(CLIENT)
    assert blocks.asked == 2


async def test_where_the_event_of_a_change_is_lost_it_is_read_after_a_while(
    blocks: Blocks, channel: _KnownChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_FRESH", 0.0)
    await channel(CLIENT)
    await channel(CLIENT)
    assert blocks.asked == 2


async def test_what_could_not_be_read_is_asked_for_again(
    blocks: Blocks, channel: _KnownChannel
) -> None:
    first = await channel(CLIENT)
    channel.forget()
    blocks.fault = ServerUnavailable("Prefect's API does not answer.")
    for _ in range(2):
        with pytest.raises(ServerUnavailable):
            await channel(CLIENT)
    blocks.fault = None
    assert await channel(CLIENT) is not first
