import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from PIL import Image

from protocol.messages import Picture
from tests.workers.fake_engine import FakeEngine
from workers.engine.messages import EndMedia, FrameTaken, OpenSession, PushFrame
from workers.feed import FrameFeed
from workers.pictures import PictureDecoder

pytestmark = pytest.mark.unit


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 16)).save(stream, "JPEG")
    return stream.getvalue()


def make_picture(second: int) -> Picture:
    return Picture(
        t_ms=second * 1000, track=1, sequence=second, width=32, height=16, jpeg=jpeg(), arrived_at=time.time()
    )


@pytest.fixture
def decoder() -> Iterator[PictureDecoder]:
    decoder = PictureDecoder(1)
    yield decoder
    decoder.close()


class Rig:
    """A feed in front of an engine that keeps its frames, with the events passed on by hand."""

    def __init__(self, decoder: PictureDecoder, under_way: int = 4) -> None:
        self.engine = FakeEngine(hold_frames=True)
        self.rooms = 0
        self.feed = FrameFeed(self.engine, decoder, "s", under_way=under_way, live_lag_s=2.0, has_room=self._count)

    def _count(self) -> None:
        self.rooms += 1

    def pushed(self) -> list[int]:
        return [command.t_ms // 1000 for command in self.engine.commands if isinstance(command, PushFrame)]

    async def settle(self, count: int) -> None:
        """Until so many pictures were pushed."""
        async with asyncio.timeout(10):
            while len(self.pushed()) < count:  # noqa: ASYNC110  # decoding happens in a thread
                await asyncio.sleep(0.001)

    async def take_all(self) -> None:
        """The engine takes what it holds, and says so."""
        held = len(self.engine._held)
        self.engine.release_frames()
        events = self.engine.events()
        taken = 0
        async for event in events:
            if isinstance(event, FrameTaken):
                self.feed.taken(event)
                taken += 1
                if taken == held:
                    break
        self.engine._hold_frames = True


@pytest.fixture
async def rig(decoder: PictureDecoder) -> AsyncIterator[Rig]:
    rig = Rig(decoder)
    await rig.engine.send(
        OpenSession(session_id="s", budget_tokens=1, policy="window", instructions="", complete=False)
    )
    task = asyncio.create_task(rig.feed.run())
    yield rig
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def test_live_pictures_that_wait_too_long_make_room_for_newer_ones(rig: Rig) -> None:
    for second in range(1, 5):
        rig.feed.offer(make_picture(second), lossless=False)
    await rig.settle(4)
    for second in range(5, 21):
        rig.feed.offer(make_picture(second), lossless=False)
    assert rig.feed.depth == 4
    await rig.take_all()
    await rig.settle(8)
    assert rig.pushed()[:4] == [1, 2, 3, 4]
    assert rig.pushed()[-3:] == [18, 19, 20]
    assert rig.feed.dropped["backlog"] == 20 - 8


async def test_pictures_that_must_not_be_lost_say_when_they_are_too_many(rig: Rig) -> None:
    for second in range(1, 12):
        rig.feed.offer(make_picture(second), lossless=True, age_s=100.0)
    full = rig.feed.full
    assert full
    await rig.settle(4)
    assert rig.rooms == 0
    while len(rig.pushed()) < 11:
        await rig.take_all()
        await rig.settle(min(11, len(rig.pushed()) + 1))
    assert rig.pushed() == list(range(1, 12))
    assert not rig.feed.full
    assert rig.rooms == 1
    assert rig.feed.dropped == {}


async def test_a_live_picture_that_is_too_old_is_not_even_decoded(rig: Rig) -> None:
    rig.feed.offer(make_picture(1), lossless=False, age_s=3.0)
    rig.feed.offer(make_picture(2), lossless=False)
    await rig.settle(1)
    assert rig.pushed() == [2]
    assert rig.feed.dropped == {"late": 1}


async def test_time_never_runs_backwards(rig: Rig) -> None:
    rig.feed.offer(make_picture(5), lossless=False)
    rig.feed.offer(make_picture(3), lossless=False)
    rig.feed.offer(make_picture(5), lossless=False)
    await rig.settle(2)
    assert rig.pushed() == [5, 5]
    assert rig.feed.dropped == {"order": 1}


async def test_the_end_of_the_media_is_never_shed(rig: Rig) -> None:
    for second in range(1, 5):
        rig.feed.offer(make_picture(second), lossless=False)
    await rig.settle(4)
    rig.feed.offer(make_picture(5), lossless=False)
    rig.feed.end()
    for second in range(6, 12):
        rig.feed.offer(make_picture(second), lossless=False)
    await rig.take_all()
    await rig.settle(5)
    await asyncio.sleep(0)
    assert any(isinstance(command, EndMedia) for command in rig.engine.commands)


async def test_what_the_engine_says_of_frames_is_counted(rig: Rig) -> None:
    rig.feed.offer(make_picture(1), lossless=False, age_s=1.0)
    await rig.settle(1)
    await rig.take_all()
    assert (rig.feed.prefilled, rig.feed.trunk_time_ms, rig.feed.tokens, rig.feed.kv_bytes) == (1, 1000, 2, 16)
    assert rig.feed.lag_ms >= 1000
    late = FrameTaken(session_id="s", sequence=9, t_ms=2000, slot=0, outcome="dropped_late")
    rig.feed.taken(late)
    assert rig.feed.dropped == {"late": 1}
    assert rig.feed.trunk_time_ms == 1000


async def test_an_end_while_decoding_gives_the_slot_back_once(decoder: PictureDecoder) -> None:
    rig = Rig(decoder)
    free = rig.engine.free_slots
    task = asyncio.create_task(rig.feed.run())
    rig.feed.offer(make_picture(1), lossless=False)
    while rig.engine.free_slots == free and not rig.pushed():  # noqa: ASYNC110  # the moment after the slot is taken
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(10):
        while not rig.pushed() and rig.engine.free_slots < free:  # noqa: ASYNC110  # the thread ends by itself
            await asyncio.sleep(0.001)
    assert rig.engine.free_slots + len(rig.pushed()) == free


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0])
async def test_a_clock_jump_makes_no_picture_late(rig: Rig, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """Nor do two machines whose clocks differ: lateness is counted by the server's clock and the monotonic one."""
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
    picture = msgspec.structs.replace(make_picture(1), arrived_at=wall())
    rig.feed.offer(picture, lossless=False)
    await rig.settle(1)
    await rig.take_all()
    assert rig.feed.dropped == {}
    assert 0 <= rig.feed.lag_ms < 60_000
