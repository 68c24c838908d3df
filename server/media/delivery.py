"""From a session's inbox through its decoder to the lanes, one chunk after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from protocol.errors import BadMedia, LonglookError, NotFound, Replaced, SessionClosed
from server.faults import error_event, notice_event
from server.journal.recorder import Recorder
from server.media.continuity import Continuity
from server.media.decoders import Decoder, DecoderLost, Nursery, refusal
from server.media.inbox import Entry, Inbox
from server.media.jobs import (
    Done,
    Encoded,
    Failed,
    Job,
    Jumped,
    PictureOut,
    Preamble,
    Result,
    Setup,
    Slice,
    SoundOut,
    Still,
    Unit,
)
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


class Feeder(Listener, Protocol):
    """A connection whose chunks are acknowledged."""

    def settled(self) -> None:
        """One of its chunks has left the decoder."""


class WayIn(Listener, Protocol):
    """What a delivery tells the session's way in."""

    def settled(self, track: int) -> None:
        """A chunk of ``track`` has left the decoder."""

    def streamed(self, count: int, t_ms: int | None) -> None:
        """A slice held ``count`` pictures, the newest of those sampled at ``t_ms``."""

    def went(self, media: PictureOut | SoundOut) -> None:
        """A picture or a piece of sound is in its lane."""


@dataclass(eq=False)
class Work:
    """A job and where it came from; ``sequence`` is of the chunk that it came in, None for REST."""

    job: Job
    arrived_at: float
    track: Track | None = None
    sequence: int | None = None
    settled: asyncio.Future[None] | None = None


class Delivery:
    """Owns the session's decoder process. ``run`` must be running while work is put in; where another gateway feeds
    the session it ends.
    """

    def __init__(
        self,
        *,
        setup: Setup,
        publisher: LanePublisher,
        nursery: Nursery,
        limits: Limits,
        tally: Tally,
        recorder: Recorder,
        listener: WayIn,
        continuity: Continuity | None = None,
    ) -> None:
        self._setup = setup
        self._publisher = publisher
        self._nursery = nursery
        self._limits = limits
        self._tally = tally
        self._recorder = recorder
        self._listener = listener
        self._continuity = continuity or Continuity()
        self._inbox: Inbox[Work] = Inbox(DEPTH, DEPTH_BYTES)
        self._decoder: Decoder | None = None
        self._wanted: dict[int, list[Work]] = {}  # of each track the waiting units whose pictures are to be delivered
        self._over: LonglookError | None = None  # why nothing is taken any more
        self._settled_ms = -1
        self._moved = asyncio.Event()

    async def room(self, size: int) -> None:
        """Wait until work of ``size`` bytes can be put, as ``Inbox.room`` does.

        Raises:
            SessionClosed, Replaced: the delivery has ended.
        """
        if self._over is None:
            await self._inbox.room(size)
        if self._over is not None:
            raise self._over

    def put(self, work: Work, size: int, *, replaceable: bool = False) -> None:
        """Queue work; call ``room`` before. A replaceable picture takes the place of its track's last one; a unit's is
        left out then, for later units build on it.
        """
        number = 0 if work.track is None else work.track.number
        if work.track is not None and work.sequence is not None:
            work.track.pending += 1
        if replaceable and isinstance(work.job, Unit):
            self._supersede(number, work)
        old = self._inbox.put(Entry(work, number, size, replaceable and isinstance(work.job, Still)))
        if old is not None and old.track is not None:
            old.track.pending -= 1
            self._tally.dropped("superseded")

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
        """Decode and append until cancelled or replaced; whoever waits for something then is told."""
        try:
            while self._over is None:
                try:
                    async with asyncio.timeout(None if self._decoder is None else IDLE_S):
                        work = await self._inbox.get()
                except TimeoutError:
                    await self._give_back()
                    continue
                await self._do(work)
        finally:
            self._over = self._over or SessionClosed("the session takes no more media")
            self._abandon(self._over)
            await self._give_back()

    def _supersede(self, track: int, work: Work) -> None:
        """Only the oldest and the newest are delivered: of the newest alone, a late decoder would never see any."""
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
            await self._deliver(work)
        except LonglookError as failed:
            error = failed
            self._refuse(work, failed)
        except BaseException:
            settle(work, SessionClosed("the session takes no more media"))
            raise
        if work.track is not None and work.sequence is not None:
            work.track.pending -= 1
            work.track.finished = work.sequence
            self._listener.settled(work.track.number)
        if isinstance(work.job, Still | Encoded):
            self.arrived(work.job.t_ms)
        settle(work, error)

    async def _deliver(self, work: Work) -> None:
        """Decode, and append what comes out. An error of the lanes' is raised when all results are read."""
        error: LonglookError | None = None
        sampled_ms: int | None = None
        async with aclosing(self._decode(work.job)) as results:
            async for result in results:
                if isinstance(result, PictureOut):
                    sampled_ms = result.t_ms
                if isinstance(work.job, Slice) and isinstance(result, Done):
                    self._listener.streamed(result.pictures, sampled_ms)
                if error is None:
                    try:
                        await self._hand_on(work, result)
                    except LonglookError as failed:
                        error = failed
        if error is not None:
            raise error

    async def _decode(self, job: Job) -> AsyncGenerator[Result, None]:
        try:
            if self._decoder is None:
                self._decoder = await self._nursery.spawn(self._setup)
            prepared = self._continuity.prepared(job) if isinstance(job, Encoded) else job
            async for result in self._decoder.run(prepared, self._limits.decode_s):
                yield result
        except DecoderLost as lost:
            self._decoder = None
            self._tally.decoder_lost()
            for track in self._continuity.lost():
                self._ask_keyframe(track, wanted=True)
            raise BadMedia("the decoder was lost over this chunk") from lost

    async def _hand_on(self, work: Work, result: Result) -> None:
        match result:
            case PictureOut():
                await self._publisher.picture(result, work.arrived_at)
                self._recorder.frame(result.jpeg, result.t_ms, result.track)
                self._tally.went(work.arrived_at, time.time())
                self._listener.went(result)
            case SoundOut():
                await self._publisher.sound(result, work.arrived_at)
                self._tally.sound(len(result.pcm))
                self._listener.went(result)
            case Preamble() if isinstance(work.job, Encoded):
                await self._continuity.found(result)
                self._recorder.preamble(result.form, result.data, work.job.t_ms, result.track)
            case Jumped():
                data = {"track": result.track, "gap_ms": 0, "jump_ms": result.jump_ms}
                self._listener.tell(notice_event("discontinuity", "the stream's own time jumped", data))
            case Failed():
                raise refusal(result)
            case Done() if isinstance(work.job, Encoded):
                if result.need_keyframe:
                    self._forgo(work)
                self._ask_keyframe(work.job.track, wanted=result.need_keyframe)

    def _forgo(self, work: Work) -> None:
        self._tally.dropped("no_keyframe")
        if isinstance(work.job, Unit) and work.job.keep and work.track is not None:
            work.track.sampler.forgive()

    def _ask_keyframe(self, track: int, *, wanted: bool) -> None:
        if self._continuity.wants_keyframe(track, wanted):
            message = "send a key frame, or begin the stream again: what came since the last one cannot be decoded"
            self._listener.tell(notice_event("need_keyframe", message, {"track": track}))

    def _refuse(self, work: Work, error: LonglookError) -> None:
        if isinstance(error, Replaced):
            self._over = error
            self._listener.replaced()
            return
        if isinstance(error, NotFound | SessionClosed):
            self._abandon(error)
            return
        if isinstance(work.job, Still | Encoded):
            self._tally.dropped(error.code)
            if work.track is not None and work.sequence is not None and not isinstance(work.job, Slice):
                work.track.sampler.forgive()
        if work.settled is None:
            number = None if work.track is None else work.track.number
            self._listener.tell(error_event(error, track=number, sequence=work.sequence))

    def _abandon(self, error: LonglookError) -> None:
        """The lanes are another's, or gone: what waits has nowhere to go."""
        waiting = self._inbox.clear()
        self._wanted.clear()
        self._tally.dropped(error.code if not isinstance(error, Replaced) else "replaced", len(waiting))
        for work in waiting:
            if work.track is not None and work.sequence is not None:
                work.track.pending -= 1
            settle(work, error)

    async def _give_back(self) -> None:
        decoder, self._decoder = self._decoder, None
        self._continuity.lost()
        if decoder is not None:
            await decoder.close()


def settle(work: Work, error: LonglookError | None) -> None:
    if work.settled is None or work.settled.done():
        return
    if error is None:
        work.settled.set_result(None)
    else:
        work.settled.set_exception(error)
