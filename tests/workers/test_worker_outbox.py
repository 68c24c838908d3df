import asyncio
from collections.abc import Mapping, Sequence

import pytest

from protocol.errors import BusUnavailable, LeaseLost
from protocol.messages import Notice, Output, Turn
from workers import outbox
from workers.outbox import BATCH, Outbox

pytestmark = pytest.mark.unit


class Stream:
    """An output stream that can be away, or refuse."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, Output]] = []
        self.calls = 0
        self.failures: list[Exception] = []

    async def append(
        self, session_id: str, epoch: int, entries: Sequence[tuple[int, Output]], turns: Mapping[int, Turn]
    ) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        assert (session_id, epoch) == ("s_1", 3)
        self.entries += entries


def notice(n: int) -> Notice:
    return Notice(code=str(n), message="m")


async def written(box: Outbox) -> None:
    task = asyncio.create_task(box.run())
    await box.drained()
    task.cancel()
    await asyncio.wait([task])


async def test_entries_are_numbered_from_one_and_written_in_order() -> None:
    stream = Stream()
    box = Outbox(stream, "s_1", 3)
    for n in range(300):
        box.put(notice(n))
    await written(box)
    assert stream.entries == [(n + 1, notice(n)) for n in range(300)]
    assert stream.calls == -(-300 // BATCH)
    assert box.depth == 0


async def test_while_the_bus_is_away_nothing_is_lost_or_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSES", (0.0,))
    stream = Stream()
    stream.failures = [BusUnavailable("away") for _ in range(10)]
    box = Outbox(stream, "s_1", 3)
    box.put(notice(0))
    box.put(notice(1))
    await written(box)
    assert stream.entries == [(1, notice(0)), (2, notice(1))]


async def test_a_newer_owner_ends_it() -> None:
    stream = Stream()
    stream.failures = [LeaseLost("another worker speaks")]
    box = Outbox(stream, "s_1", 3)
    box.put(notice(0))
    with pytest.raises(LeaseLost):
        await box.run()


async def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSES", (0.0,))
    stream = Stream()
    stream.failures = [BusUnavailable("away") for _ in range(10_000)]
    box = Outbox(stream, "s_1", 3, limit=5)
    for n in range(7):
        box.put(notice(n))
    assert box.depth == 5
    with pytest.raises(LeaseLost, match="too long"):
        await box.run()
