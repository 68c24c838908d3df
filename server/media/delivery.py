"""From a session's inbox through its decoder to the lanes, one chunk after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from protocol.errors import BadMedia, LonglookError, NotFound, Replaced, SessionClosed
from server.faults import error_event, notice_event
from server.journal.recorder import Recorder
from server.media.decoders import Decoder, DecoderLost, Nursery
from server.media.inbox import Entry, Inbox
from server.media.jobs import Done, Failed, Job, PictureOut, Result, Setup, SoundOut, Still, Unit
from server.media.publisher import LanePublisher
from server.media.tally import Tally
from server.media.tracks import Track
from server.settings import Limits

IDLE_S = 60.0  # a decoder that has had nothing to do for longer is given back
DEPTH = 288  # more than clients send ahead of acknowledgements: their pings are read even while the worker is behind
DEPTH_BYTES = 40 << 20


class Listener(Protocol):
    """The connection that feeds a session. Neither call waits."""

    def tell(self, event: Mapping[str, Any]) -> None:
        """An error or notice about its media."""

    def replaced(self) -> None:
        """Another connection feeds the session now."""


@dataclass(eq=False)
class Work:
    """A job and where it came from; ``sequence`` is of the chunk that it came in, None for REST."""

    job: Job
    arrived_at: float
    track: Track | None = None
    sequence: int | None = None
    settled: asyncio.Future[None] | None = None


class Delivery:
    """Owns the session's decoder process. ``run`` must be running while work is put in."""

    def __init__(
        self,
        *,
        setup: Setup,
        publisher: LanePublisher,
        nursery: Nursery,
        limits: Limits,
        tally: Tally,
        recorder: Recorder,
        listener: Listener,
    ) -> None:
        self._setup = setup
        self._publisher = publisher
        self._nursery = nursery
        self._limits = limits
        self._tally = tally
        self._recorder = recorder
        self._listener = listener
        self._inbox: Inbox[Work] = Inbox(DEPTH, DEPTH_BYTES)
        self._decoder: Decoder | None = None
        self._wanted: dict[int, list[Work]] = {}  # of each track the waiting units whose pictures are to be delivered
        self._over = asyncio.Event()
        self._settled_ms = -1
        self._moved = asyncio.Event()

    async def put(self, work: Work, size: int, *, replaceable: bool = False) -> None:
        """Queue work; waits while the inbox is full. A replaceable picture takes the place of its track's last one;
        a unit's is left out then, for later units build on it.

        Raises:
            SessionClosed: the delivery has ended.
        """
        if self._over.is_set():
            raise SessionClosed("the session takes no more media")
        number = 0 if work.track is None else work.track.number
        if work.track is not None and work.sequence is not None:
            work.track.pending += 1
        if replaceable and isinstance(work.job, Unit):
            self._supersede(number, work)
        old = await self._inbox.put(Entry(work, number, size, replaceable and isinstance(work.job, Still)))
        if old is not None and old.track is not None:
            old.track.pending -= 1
            self._tally.dropped("superseded")
        if self._over.is_set():
            settle(work, SessionClosed("the session takes no more media"))

    def pin(self) -> None:
        """Pictures that wait now will not be replaced by newer ones."""
        self._inbox.pin()
        self._wanted.clear()

    def arrived(self, t_ms: int) -> None:
        self._settled_ms = max(self._settled_ms, t_ms)
        self._moved.set()

    async def until(self, t_ms: int) -> None:
        """Wait until pictures up to session time ``t_ms`` are in their lane, or were refused."""
        while self._settled_ms < t_ms:
            self._moved.clear()
            await self._moved.wait()

    async def run(self) -> None:
        """Decode and append until cancelled; whoever waits for something then is told."""
        try:
            while True:
                try:
                    async with asyncio.timeout(None if self._decoder is None else IDLE_S):
                        work = await self._inbox.get()
                except TimeoutError:
                    await self._give_back()
                    continue
                await self._do(work)
        finally:
            self._over.set()
            await self._abandon(SessionClosed("the session takes no more media"))
            await self._give_back()

    def _supersede(self, track: int, work: Work) -> None:
        """Only the oldest and the newest are delivered: were it the newest alone, a late decoder would never get there."""
        waiting = self._wanted.setdefault(track, [])
        if len(waiting) > 1:
            before = waiting.pop()
            if isinstance(before.job, Unit):
                before.job = msgspec.structs.replace(before.job, keep=False)
                self._tally.dropped("superseded")
        waiting.append(work)

    async def _do(self, work: Work) -> None:
        error: LonglookError | None = None
        if work.track is not None and work in (waiting := self._wanted.get(work.track.number, [])):
            waiting.remove(work)
        try:
            await self._deliver(work, await self._decode(work.job))
        except LonglookError as failed:
            error = failed
            await self._refuse(work, failed)
        except BaseException:
            settle(work, SessionClosed("the session takes no more media"))
            raise
        if work.track is not None and work.sequence is not None:
            work.track.pending -= 1
            work.track.finished = work.sequence
        if isinstance(work.job, Still | Unit):
            self.arrived(work.job.t_ms)
        settle(work, error)

    async def _decode(self, job: Job) -> list[Result]:
        try:
            if self._decoder is None:
                self._decoder = await self._nursery.spawn(self._setup)
            return [result async for result in self._decoder.run(job, self._limits.decode_s)]
        except DecoderLost as lost:
            self._decoder = None
            self._tally.decoder_lost()
            raise BadMedia("the decoder was lost over this chunk") from lost

    async def _deliver(self, work: Work, results: list[Result]) -> None:
        for result in results:
            match result:
                case PictureOut():
                    await self._publisher.picture(result, work.arrived_at)
                    self._recorder.frame(result.jpeg, result.t_ms, result.track)
                    self._tally.went(work.arrived_at, time.time())
                case SoundOut():
                    await self._publisher.sound(result, work.arrived_at)
                    self._tally.sound(len(result.pcm))
                case Failed():
                    raise BadMedia(result.message)
                case Done() if isinstance(work.job, Unit) and work.track is not None:
                    self._ask_keyframe(work.job, work.track, wanted=result.need_keyframe)

    def _ask_keyframe(self, job: Unit, track: Track, *, wanted: bool) -> None:
        if wanted:
            self._tally.dropped("no_keyframe")
            if job.keep:
                track.sampler.forgive()
            if not track.keyframe_wanted:
                message = "send a key frame: what came since the last one cannot be decoded"
                self._listener.tell(notice_event("need_keyframe", message, {"track": track.number}))
        track.keyframe_wanted = wanted

    async def _refuse(self, work: Work, error: LonglookError) -> None:
        if isinstance(error, NotFound | SessionClosed | Replaced):
            await self._abandon(error)
            return
        if isinstance(work.job, Still | Unit):
            self._tally.dropped(error.code)
            if work.track is not None and work.sequence is not None:
                work.track.sampler.forgive()
        if work.settled is None:
            number = None if work.track is None else work.track.number
            self._listener.tell(error_event(error, track=number, sequence=work.sequence))

    async def _abandon(self, error: LonglookError) -> None:
        """The lanes are another's, or gone: what waits has nowhere to go."""
        waiting = await self._inbox.clear()
        self._wanted.clear()
        self._tally.dropped(error.code if not isinstance(error, Replaced) else "replaced", len(waiting))
        for work in waiting:
            if work.track is not None and work.sequence is not None:
                work.track.pending -= 1
            settle(work, error)
        if isinstance(error, Replaced):
            self._listener.replaced()

    async def _give_back(self) -> None:
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            await decoder.close()


def settle(work: Work, error: LonglookError | None) -> None:
    if work.settled is None or work.settled.done():
        return
    if error is None:
        work.settled.set_result(None)
    else:
        work.settled.set_exception(error)
