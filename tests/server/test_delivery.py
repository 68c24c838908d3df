"""What is delivered of a session's media when the decoder is behind; the decoder itself is a stand-in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from protocol.messages import IngestStats
from server.journal.recorder import NoRecorder
from server.media.clock import SessionClock
from server.media.decoders import Nursery
from server.media.delivery import Delivery, Work
from server.media.jobs import Done, Job, PictureOut, Result, Setup, SoundOut, Unit
from server.media.publisher import LanePublisher
from server.media.sampler import Sampler
from server.media.tally import Tally
from server.media.tracks import Track
from server.metrics import Metrics
from server.settings import Limits

pytestmark = pytest.mark.unit


class Stage:
    """Nursery, decoder, publisher and listener in one: units become pictures when the gate is open."""

    def __init__(self) -> None:
        self.busy = asyncio.Event()
        self.gate = asyncio.Event()
        self.decoded: list[int] = []
        self.published: list[int] = []

    async def spawn(self, setup: Setup) -> Stage:
        return self

    async def run(self, job: Job, deadline_s: float) -> AsyncIterator[Result]:
        self.busy.set()
        await self.gate.wait()
        assert isinstance(job, Unit)
        self.decoded.append(job.t_ms)
        if job.keep:
            yield PictureOut(t_ms=job.t_ms, width=8, height=8, jpeg=b"")
        yield Done()

    async def close(self) -> None:
        pass

    async def picture(self, out: PictureOut, arrived_at: float) -> None:
        self.published.append(out.t_ms)

    def tell(self, event: Mapping[str, Any]) -> None:
        raise AssertionError(event)

    def went(self, media: PictureOut | SoundOut) -> None:
        assert media.t_ms in self.published

    def settled(self, track: int) -> None:
        pass

    def replaced(self) -> None:
        raise AssertionError

    def streamed(self, count: int, t_ms: int | None) -> None:
        raise AssertionError


@contextlib.asynccontextmanager
async def delivering(stage: Stage) -> AsyncIterator[tuple[Delivery, Tally]]:
    tally = Tally(Metrics(), IngestStats())
    setup = Setup(width=8, height=8, fps=1.0, quality=90, max_pixels=100, memory_bytes=1 << 30, cpu_seconds=1)
    delivery = Delivery(
        setup=setup,
        publisher=cast(LanePublisher, stage),
        nursery=cast(Nursery, stage),
        limits=Limits(),
        tally=tally,
        recorder=NoRecorder(),
        listener=stage,
    )
    running = asyncio.create_task(delivery.run())
    yield delivery, tally
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def put(delivery: Delivery, track: Track, t_ms: int, *, live: bool = True, keep: bool = True) -> None:
    unit = Unit(track=track.number, t_ms=t_ms, data=b"x", keep=keep)
    await delivery.room(1)
    delivery.put(Work(unit, 0.0, track, t_ms // 1000), 1, replaceable=live and keep)


@pytest.mark.parametrize(("live", "published"), [(True, [0, 1000, 5000]), (False, [0, 1000, 3000, 5000])])
async def test_units_are_all_decoded_and_of_a_live_track_the_oldest_and_the_newest_picture_count(
    live: bool, published: list[int]
) -> None:
    stage, track = Stage(), Track(0, Sampler(1.0))
    async with delivering(stage) as (delivery, tally):
        await put(delivery, track, 0, live=live)
        await stage.busy.wait()  # the first is being decoded while the others come
        for t_ms in (1000, 2000, 3000, 4000, 5000):
            await put(delivery, track, t_ms, live=live, keep=t_ms % 2000 == 1000)
        stage.gate.set()
        await asyncio.wait_for(delivery.until(5000), 10)
    assert stage.decoded == [0, 1000, 2000, 3000, 4000, 5000]
    assert stage.published == published
    dropped = tally.stats(0.0, SessionClock(lossless=False)).frames_dropped
    assert dropped == ({"superseded": 1} if live else {})


async def test_a_picture_that_was_asked_about_stays() -> None:
    stage, track = Stage(), Track(0, Sampler(1.0))
    async with delivering(stage) as (delivery, _):
        await put(delivery, track, 0)
        await stage.busy.wait()
        await put(delivery, track, 1000)
        delivery.pin()
        await put(delivery, track, 2000)
        stage.gate.set()
        await asyncio.wait_for(delivery.until(2000), 10)
    assert stage.published == [0, 1000, 2000]
