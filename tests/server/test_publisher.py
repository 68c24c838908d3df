"""The publisher over lanes that refuse and fill up, and deliveries over a decoder that is a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from protocol.errors import BusUnavailable, LaneFull, Replaced, SessionClosed, TimedOut
from protocol.ids import EntryId
from protocol.lanes import Appended, Lanes
from protocol.messages import IngestStats, Picture, Sound
from server.journal.recorder import NoRecorder
from server.media.clock import SessionClock
from server.media.decoders import DecoderLost, Nursery
from server.media.delivery import DEPTH
from server.media.ingest import Ingest
from server.media.jobs import Done, Failed, Job, PictureOut, Result, Setup, SoundOut, Still, Unit
from server.media.publisher import LanePublisher
from server.media.tally import Tally
from server.media.tracks import Chunk, Codec
from server.metrics import Metrics
from server.settings import Limits
from tests.server.wire import picture

pytestmark = pytest.mark.unit


class ListLanes:
    """Lanes that keep what is appended; ``errors`` are raised first, one for each append."""

    def __init__(self, *errors: Exception) -> None:
        self.appended: list[tuple[int, int, Picture | Sound]] = []
        self.errors = list(errors)
        self.claims = self.tellings = 0
        self.away: list[Exception] = []  # raised one for each claim
        self.known: dict[int, int] = {}  # what lies in the lane when it is claimed
        self.unread = 0
        self.polls = 0

    async def claim_publisher(self, session_id: str) -> int:
        if self.away:
            raise self.away.pop()
        self.claims += 1
        return self.claims

    async def heard(self, session_id: str) -> dict[int, int]:
        return dict(self.known)

    async def told(self) -> None:
        self.tellings += 1

    async def append(
        self, session_id: str, generation: int, sequence: int, media: Picture | Sound, *, lossless: bool
    ) -> Appended:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        self.appended.append((generation, sequence, media))
        self.unread += 1
        return Appended(EntryId(generation, sequence), self.unread)

    async def backlog(self, session_id: str) -> dict[str, int]:
        self.polls += 1
        self.unread = max(self.unread - 1, 0)
        return {"video": self.unread, "audio": 0}


def make_publisher(lanes: ListLanes, *, lossless: bool = False, stall_s: float = 5.0) -> LanePublisher:
    return LanePublisher(
        cast(Lanes, cast(Any, lanes)), "s", lossless=lossless, backlog=2, stall_s=stall_s, claimed=lanes.told
    )


def out(t_ms: int) -> PictureOut:
    return PictureOut(t_ms=t_ms, width=8, height=8, jpeg=b"jpeg")


async def test_sequences_count_in_each_lane() -> None:
    lanes = ListLanes()
    publisher = make_publisher(lanes)
    await publisher.picture(out(0), 0.0)
    await publisher.sound(SoundOut(t_ms=0, pcm=b"pcm"), 0.0)
    await publisher.picture(out(1), 0.0)
    assert [(generation, sequence, media.sequence) for generation, sequence, media in lanes.appended] == [
        (1, 1, 1),
        (1, 1, 1),
        (1, 2, 2),
    ]


async def test_a_failing_bus_is_asked_again_with_the_same_id() -> None:
    lanes = ListLanes(BusUnavailable("away"), BusUnavailable("away"))
    await make_publisher(lanes).picture(out(0), 0.0)
    assert [(generation, sequence) for generation, sequence, _ in lanes.appended] == [(1, 1)]


async def test_a_replaced_publisher_claims_the_lanes_anew_when_it_is_used_again() -> None:
    lanes = ListLanes(Replaced("newer"))
    publisher = make_publisher(lanes)
    with pytest.raises(Replaced):
        await publisher.picture(out(0), 0.0)
    await publisher.picture(out(1), 0.0)
    assert [(generation, sequence) for generation, sequence, _ in lanes.appended] == [(2, 1)]


async def test_lanes_are_claimed_as_soon_as_the_bus_is_there() -> None:
    lanes = ListLanes()
    lanes.away = [BusUnavailable("away"), BusUnavailable("away")]
    await make_publisher(lanes).sound(SoundOut(t_ms=0, pcm=b"pcm"), 0.0)
    assert (len(lanes.appended), lanes.tellings) == (1, 1)


async def test_lanes_that_were_lost_meanwhile_are_claimed_anew() -> None:
    lanes = ListLanes(BusUnavailable("away"))
    publisher = make_publisher(lanes)
    appending = asyncio.create_task(publisher.sound(SoundOut(t_ms=0, pcm=b"pcm"), 0.0))
    while lanes.errors:  # noqa: ASYNC110 - an append of the test's own
        await asyncio.sleep(0)
    publisher.hold()
    publisher.go_on()
    await asyncio.wait_for(appending, 5)
    assert [(generation, sequence) for generation, sequence, _ in lanes.appended] == [(2, 1)]


async def test_sound_that_lies_in_the_lane_when_it_is_claimed_is_not_appended_again() -> None:
    lanes = ListLanes()
    lanes.known = {0: 250}
    publisher = make_publisher(lanes)
    for track, t_ms in ((0, 100), (0, 200), (1, 100), (0, 300), (0, 200)):
        await publisher.sound(SoundOut(t_ms=t_ms, track=track, pcm=bytes(3200)), 0.0)
    found = [(media.track, media.t_ms, len(media.pcm)) for _, _, media in lanes.appended if isinstance(media, Sound)]
    assert found == [(0, 250, 1600), (1, 100, 3200), (0, 300, 3200), (0, 200, 3200)], "once past it all is new"
    assert [sequence for _, sequence, _ in lanes.appended] == [1, 2, 3, 4]


async def test_nothing_outruns_the_reader_where_nothing_may_be_lost() -> None:
    lanes = ListLanes(LaneFull("full"))
    publisher = make_publisher(lanes, lossless=True)
    for n in range(6):
        await publisher.picture(out(n), 0.0)
        assert lanes.unread <= 2
    assert lanes.polls == 4
    live = ListLanes()
    for n in range(6):
        await make_publisher(live).picture(out(n), 0.0)
    assert live.polls == 0


async def test_a_wait_for_the_reader_has_an_end() -> None:
    with pytest.raises(TimedOut):
        await make_publisher(ListLanes(*[LaneFull("full")] * 99), lossless=True, stall_s=0.05).picture(out(0), 0.0)


class FunctionDecoder:
    """Decodes at once; ``gate`` holds it back, ``lost`` makes it crash once, pictures that begin with ``bad`` fail."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.lost = False
        self.spawned = 0
        self.jobs: list[Job] = []

    async def spawn(self, setup: Setup) -> FunctionDecoder:
        self.spawned += 1
        return self

    async def run(self, job: Job, deadline_s: float) -> AsyncIterator[Result]:
        self.jobs.append(job)
        self.begun.set()
        await self.gate.wait()
        if self.lost:
            self.lost = False
            raise DecoderLost("crashed")
        if isinstance(job, Still | Unit) and job.data.endswith(b"bad"):
            yield Failed(code="bad_media", message="bad")
            return
        if isinstance(job, Still | Unit):
            yield PictureOut(track=job.track, t_ms=job.t_ms, width=8, height=8, jpeg=b"jpeg")
        yield Done()

    async def close(self) -> None:
        pass


class Ears:
    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.was_replaced = False
        self.settlements = 0

    def tell(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def settled(self) -> None:
        self.settlements += 1

    def replaced(self) -> None:
        self.was_replaced = True


class Bench:
    """An ingest with its surroundings, running."""

    def __init__(self, *errors: Exception, lossless: bool = False, fps: float = 1.0) -> None:
        self.lanes = ListLanes(*errors)
        self.decoder = FunctionDecoder()
        self.ears = Ears()
        self.ingest = Ingest(
            setup=Setup(width=8, height=8, fps=fps, quality=90, max_pixels=10**6, memory_bytes=0, cpu_seconds=1),
            clock=SessionClock(lossless=lossless),
            publisher=make_publisher(self.lanes, lossless=lossless),
            nursery=cast(Nursery, cast(Any, self.decoder)),
            limits=Limits(),
            tally=Tally(Metrics(), IngestStats()),
            recorder=NoRecorder(),
            lossless=lossless,
        )

    async def __aenter__(self) -> Bench:
        self._task = asyncio.create_task(self.ingest.run())
        self.ingest.attach(self.ears)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def over(self) -> None:
        """Returns when the way in has ended by itself."""
        await self._task

    async def send(self, sequence: int, second: float, data: bytes = b"", *, codec: Codec = Codec.JPEG) -> None:
        await self.ingest.offer(
            self.ears, Chunk(codec, 0, sequence, round(second * 1e6), picture("red", size=(8, 8)) + data)
        )

    def times(self) -> list[int]:
        return [media.t_ms for _, _, media in self.lanes.appended]

    async def flushed(self) -> list[int]:
        await asyncio.wait_for(self.ingest.flush(), 5)
        return self.times()


async def test_a_feeder_hears_of_each_chunk_that_is_settled_and_not_of_a_sources() -> None:
    async with Bench(lossless=True) as bench:
        await bench.send(0, 0)
        await bench.send(1, 1)
        await bench.flushed()
        assert bench.ears.settlements == 2
        camera = Ears()
        await bench.ingest.pull(camera, Chunk(Codec.JPEG, 7, 0, 0, picture("red", size=(8, 8))), 2000)
        await bench.flushed()
        assert (bench.ears.settlements, camera.settlements) == (2, 0)


async def test_the_latest_picture_wins_in_a_live_session() -> None:
    async with Bench() as bench:
        bench.decoder.gate.clear()
        await bench.send(0, 0)
        await bench.decoder.begun.wait()
        for second in range(1, 6):
            await bench.send(second, second)
        bench.decoder.gate.set()
        assert await bench.flushed() == [0, 5000]
        stats = bench.ingest.stats()
        assert (stats.frames_in, stats.frames_out, stats.frames_dropped) == (6, 2, {"superseded": 4})
        assert list(bench.ingest.acknowledgements()) == [(0, 5, 6)]


async def test_nothing_is_left_out_of_a_complete_session() -> None:
    async with Bench(lossless=True) as bench:
        bench.decoder.gate.clear()
        for second in range(6):
            await bench.send(second, second)
        bench.decoder.gate.set()
        assert await bench.flushed() == [0, 1000, 2000, 3000, 4000, 5000]


async def test_a_picture_that_was_asked_about_is_not_replaced() -> None:
    async with Bench() as bench:
        bench.decoder.gate.clear()
        await bench.send(0, 0)
        await bench.decoder.begun.wait()
        await bench.send(1, 1)
        asked = asyncio.create_task(bench.ingest.asked())
        await asyncio.sleep(0)
        await bench.send(2, 2)
        await bench.send(3, 3)
        assert not asked.done()
        bench.decoder.gate.set()
        assert await asked == 1000
        assert bench.times()[:2] == [0, 1000]
        assert await bench.flushed() == [0, 1000, 3000]


async def test_acknowledgements_follow_the_lane_not_the_socket() -> None:
    async with Bench(lossless=True) as bench:
        bench.decoder.gate.clear()
        for n in range(4):
            await bench.send(n, n)
        assert list(bench.ingest.acknowledgements()) == []
        bench.decoder.gate.set()
        await bench.flushed()
        await bench.send(4, 3.1)
        assert list(bench.ingest.acknowledgements()) == [(0, 4, 5)], "left out by the frame rate, settled at once"


async def test_a_bad_picture_is_named_and_its_place_is_the_next_ones() -> None:
    async with Bench() as bench:
        await bench.send(0, 0)
        await bench.flushed()
        await bench.send(1, 1, b"bad")
        await bench.flushed()
        await bench.send(2, 1.1)
        assert await bench.flushed() == [0, 1100]
        [event] = bench.ears.events
        assert (event["error"]["code"], event["track"], event["sequence"]) == ("bad_media", 0, 1)


async def test_who_comes_next_hears_of_what_was_refused_while_nobody_listened() -> None:
    async with Bench() as bench:
        bench.decoder.gate.clear()
        await bench.send(0, 0, b"bad")
        bench.ingest.detach(bench.ears)
        bench.decoder.gate.set()
        await bench.flushed()
        assert bench.ears.events == []
        bench.ingest.attach(bench.ears)
        bench.ingest.attach(Ears())
        assert [(event["error"]["code"], event["sequence"]) for event in bench.ears.events] == [("bad_media", 0)]


async def test_a_lost_decoder_costs_one_chunk() -> None:
    async with Bench() as bench:
        bench.decoder.lost = True
        await bench.send(0, 0)
        await bench.flushed()
        await bench.send(1, 1)
        assert await bench.flushed() == [1000]
        assert bench.decoder.spawned == 2
        assert bench.ears.events[0]["error"]["code"] == "bad_media"


async def test_capture_times_that_go_back_are_told_once() -> None:
    async with Bench() as bench:
        await bench.send(0, 5)
        await bench.flushed()
        await bench.send(1, 7)
        with pytest.raises(Exception, match="must not go back"):
            await bench.send(2, 6)
        await bench.send(3, 6)
        assert await bench.flushed() == [0, 2000]
        assert bench.ingest.stats().frames_dropped == {"backward": 2}


async def test_units_are_never_replaced_and_all_are_decoded() -> None:
    async with Bench() as bench:
        bench.decoder.gate.clear()
        for n in range(10):
            await bench.send(n, n / 10, codec=Codec.H264)
        bench.decoder.gate.set()
        await bench.flushed()
        units = [job for job in bench.decoder.jobs if isinstance(job, Unit)]
        assert [unit.keep for unit in units] == [True] + [False] * 8 + [True]
        assert not any(unit.fresh for unit in units)
        await bench.send(12, 1.2, codec=Codec.H264)
        await bench.flushed()
        assert isinstance(bench.decoder.jobs[-2], Unit)
        assert bench.decoder.jobs[-2].fresh


async def test_a_chunk_whose_sender_was_lost_while_it_waited_was_never_taken() -> None:
    async with Bench(lossless=True) as bench:
        bench.lanes.unread = -2 * DEPTH  # a reader that is never behind
        bench.decoder.gate.clear()
        await bench.send(0, 0)
        await bench.decoder.begun.wait()
        for n in range(1, DEPTH + 1):
            await bench.send(n, n)
        lost = asyncio.create_task(bench.send(DEPTH + 1, DEPTH + 1))
        await asyncio.sleep(0)
        assert not lost.done()
        lost.cancel()
        await asyncio.wait([lost])
        again = asyncio.create_task(bench.send(DEPTH + 1, DEPTH + 1))
        bench.decoder.gate.set()
        await again
        assert (await bench.flushed())[-1] == (DEPTH + 1) * 1000
        assert list(bench.ingest.acknowledgements()) == [(0, DEPTH + 1, DEPTH + 2)]


async def test_lanes_of_another_publisher_are_left_alone() -> None:
    async with Bench(Replaced("newer")) as bench:
        bench.decoder.gate.clear()
        await bench.send(0, 0)
        await bench.send(1, 1)
        bench.decoder.gate.set()
        async with asyncio.timeout(5):
            while not bench.ears.was_replaced:  # noqa: ASYNC110 - a flag of the test's own
                await asyncio.sleep(0)
        with pytest.raises(Replaced):
            await bench.send(2, 2)
        assert bench.times() == []
        await asyncio.wait_for(bench.over(), 5)


async def test_whoever_waits_is_told_when_the_way_in_ends() -> None:
    async with Bench() as bench:
        bench.decoder.gate.clear()
        under_way = await bench.ingest.post_picture("jpeg", picture("red"), 0, None, wait=True)
        await bench.decoder.begun.wait()
        flushing = asyncio.create_task(bench.ingest.flush())
        await asyncio.sleep(0)
    for waiting in (under_way.settled, flushing):
        assert waiting is not None
        with pytest.raises(SessionClosed):
            await asyncio.wait_for(waiting, 5)
    with pytest.raises(SessionClosed):
        await bench.send(0, 0)


async def test_a_closed_sessions_media_have_nowhere_to_go() -> None:
    async with Bench(SessionClosed("over")) as bench:
        posted = await bench.ingest.post_picture("jpeg", picture("red"), 0, None, wait=True)
        assert posted.settled is not None
        with pytest.raises(SessionClosed):
            await asyncio.wait_for(posted.settled, 5)
