"""A session's way in: chunks are checked, stamped with session time and sampled, and sent on to its decoder."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.errors import BadMedia, BadRequest, Conflict, Replaced, TooLarge
from protocol.messages import IngestStats
from server.faults import notice_event
from server.journal.recorder import Recorder
from server.media.clock import BackwardTime, SessionClock, Stamp
from server.media.continuity import Continuity
from server.media.decoders import Nursery
from server.media.delivery import Delivery, Feeder, Listener, Work
from server.media.headers import picture_size
from server.media.health import MESSAGES, StreamHealth
from server.media.jobs import (
    Flush,
    Job,
    Pcm,
    PictureOut,
    Setup,
    Slice,
    SoundCodec,
    SoundOut,
    SoundUnit,
    Still,
    StillCodec,
    StreamForm,
    Unit,
    VideoCodec,
)
from server.media.publisher import LanePublisher
from server.media.sampler import Sampler
from server.media.tally import Tally
from server.media.tracks import REMEMBERED, Chunk, Codec, Track
from server.settings import Limits

STILLS: Mapping[Codec, StillCodec] = {Codec.JPEG: "jpeg", Codec.PNG: "png", Codec.WEBP: "webp"}
VIDEOS: Mapping[Codec, VideoCodec] = {
    Codec.H264: "h264",
    Codec.H265: "h265",
    Codec.VP8: "vp8",
    Codec.VP9: "vp9",
    Codec.AV1: "av1",
}
SOUNDS: Mapping[Codec, SoundCodec] = {Codec.OPUS: "opus", Codec.AAC: "aac"}
STREAMS: Mapping[Codec, StreamForm] = {Codec.MP4: "mp4", Codec.WEBM: "webm"}
LOWEST_RATE, HIGHEST_RATE = 8_000, 48_000


@dataclass(frozen=True)
class Posted:
    """Media taken outright; awaiting ``settled`` waits until it is in its lane, and raises why it is not."""

    t_ms: int
    settled: asyncio.Future[None] | None


class Ingest:
    """One session's way in. ``run`` must be running while media is offered."""

    def __init__(
        self,
        *,
        setup: Setup,
        clock: SessionClock,
        publisher: LanePublisher,
        nursery: Nursery,
        limits: Limits,
        tally: Tally,
        recorder: Recorder,
        lossless: bool,
        continuity: Continuity | None = None,
    ) -> None:
        self.setup = setup
        self.clock = clock
        self.publisher = publisher
        self.tally = tally
        self.recorder = recorder
        self._limits = limits
        self._lossless = lossless
        self._tracks: dict[int, Track] = {}
        self._listener: Feeder | None = None
        self._untold: deque[Mapping[str, Any]] = deque(maxlen=REMEMBERED)
        self._pulled: dict[int, Listener] = {}  # tracks of sources, and who hears of them
        self._newest_ms = -1
        self._health = StreamHealth()
        self._sliced_ms = -1  # capture time of the newest slice, whose pictures are known once it is decoded
        self._reading_file = False
        self._delivery = Delivery(
            setup=setup,
            publisher=publisher,
            nursery=nursery,
            limits=limits,
            tally=tally,
            recorder=recorder,
            listener=self,
            continuity=continuity or Continuity(),
        )

    async def run(self) -> None:
        """Carry media to the lanes until cancelled, or until another gateway does."""
        await self._delivery.run()

    # --- who feeds ----------------------------------------------------------------------------------------------------

    def attach(self, listener: Feeder) -> None:
        """From here on ``listener`` feeds the session; the one before is told."""
        if self._listener is listener:
            return
        self._dismiss()
        self._listener = listener
        while self._untold:
            listener.tell(self._untold.popleft())
        self.clock.new_publisher()
        for track in self._tracks.values():
            track.sampler.restart()

    def detach(self, listener: Listener) -> None:
        if self._listener is listener:
            self._listener = None

    @property
    def fed(self) -> bool:
        """Whether a connection, a source or a file feeds the session here."""
        return self._listener is not None or bool(self._pulled) or self._reading_file

    def tell(self, event: Mapping[str, Any]) -> None:
        """An error or notice, told to whom its track is fed by; an error waits for the next one if there is nobody."""
        track = event.get("track", event.get("data", {}).get("track"))
        listener = self._pulled.get(track, self._listener)
        if listener is not None:
            listener.tell(event)
        elif event["type"] == "error":
            self._untold.append(event)

    def went(self, media: PictureOut | SoundOut) -> None:
        """A picture or a piece of sound is in its lane: whoever sends it hears what is wrong with it."""
        for change in self._health.observe(media):
            data = {"track": change.track, "state": change.state, "since_ms": change.since_ms, "at_ms": change.at_ms}
            self.tell(notice_event(change.condition, MESSAGES[change.condition], data))
            if change.begun:
                self.tally.condition(change.condition)

    def settled(self, track: int) -> None:
        """A chunk has left the decoder: its sender may be waiting to hear of it."""
        if self._listener is not None and track not in self._pulled:
            self._listener.settled()

    def replaced(self) -> None:
        """Another gateway feeds the session."""
        self._dismiss()
        pulled, self._pulled = self._pulled, {}
        for listener in pulled.values():
            listener.replaced()

    def release(self, listener: Listener) -> None:
        """``listener`` pulls no more; its tracks are anybody's."""
        self._pulled = {track: other for track, other in self._pulled.items() if other is not listener}

    def _dismiss(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.replaced()

    # --- media in -----------------------------------------------------------------------------------------------------

    def open_track(self, number: int, rate: int, channels: int) -> None:
        """The form of a track's PCM; other sound says itself what it is. Raises BadMedia."""
        if not LOWEST_RATE <= rate <= HIGHEST_RATE or channels not in (1, 2):
            message = f"PCM is accepted at {LOWEST_RATE} to {HIGHEST_RATE} Hz, mono or stereo"
            raise BadMedia(message, param="rate")
        track = self._track(number)
        track.rate, track.channels = rate, channels

    async def offer(self, listener: Listener, chunk: Chunk) -> None:
        """Take one chunk; waits only where the decoder is behind with what must not be lost.

        Raises:
            BadMedia, TooLarge: the chunk is refused, nothing else is affected.
            Replaced: another connection feeds the session.
        """
        self._check_publisher(listener)
        await self._delivery.room(len(chunk.data))
        self._check_publisher(listener)
        if chunk.track in self._pulled:
            raise BadMedia("this track is a source's", param="track")
        if chunk.codec in STILLS:
            self._check_picture(STILLS[chunk.codec], chunk.data)
        now = time.time()
        track = self._track(chunk.track)
        if chunk.codec is Codec.PCM16:
            self._check_sound(chunk.data, track.rate, track.channels)
        stamp = self._stamp(track, chunk, now)
        if stamp is not None:
            self._take(track, chunk, stamp.t_ms, now, "socket")

    async def pull(self, listener: Listener, chunk: Chunk, t_ms: int) -> None:
        """Take one chunk of a source at its session time; ``listener`` hears of its track from here on.

        Raises:
            BadMedia, TooLarge: the chunk is refused, nothing else is affected.
            Replaced: another gateway feeds the session.
        """
        if chunk.codec in STILLS:
            self._check_picture(STILLS[chunk.codec], chunk.data)
        await self._delivery.room(len(chunk.data))
        now = time.time()
        track = self._track(chunk.track)
        self._pulled[chunk.track] = listener
        try:
            self.clock.place(chunk.track, t_ms, now)
        except BackwardTime as error:
            self.tally.dropped("backward")
            raise BadMedia(str(error)) from None
        self._take(track, chunk, t_ms, now, "source")

    def _take(self, track: Track, chunk: Chunk, t_ms: int, now: float, source: str) -> None:
        continues = track.continues(chunk.sequence)
        track.take(chunk.sequence, chunk.capture_us)
        form = (track.rate, track.channels)
        self.recorder.media(chunk.codec.name.lower(), chunk.data, t_ms, track.number, chunk.sequence, form)
        if chunk.codec in STILLS or chunk.codec in VIDEOS:
            self.tally.came(source, now)
        job = self._job(track, chunk, t_ms, continues=continues)
        if job is not None:
            replaceable = not self._lossless and (isinstance(job, Still) or (isinstance(job, Unit) and job.keep))
            work = Work(job, now, track, chunk.sequence)
            self._delivery.put(work, len(chunk.data), replaceable=replaceable)

    async def post_picture(
        self, codec: StillCodec, data: bytes, track: int, at_ms: int | None, *, wait: bool
    ) -> Posted:
        """Take one picture outright, whatever the frame rate. Raises BadMedia, TooLarge, BadRequest (``at_ms``)."""
        self._check_picture(codec, data)
        await self._delivery.room(len(data))
        now = time.time()
        t_ms = self.place(track, at_ms, now)
        self.tally.came("rest", now)
        self.recorder.media(codec, data, t_ms, track)
        self.sampled(t_ms)
        return self._post(Still(codec=codec, track=track, t_ms=t_ms, data=data), track, t_ms, now, wait=wait)

    async def post_sound(
        self, data: bytes, rate: int, channels: int, track: int, at_ms: int | None, *, wait: bool
    ) -> Posted:
        """Take a piece of PCM. Raises BadMedia, TooLarge, BadRequest (``at_ms``)."""
        self.open_track(track, rate, channels)
        self._check_sound(data, rate, channels)
        await self._delivery.room(len(data))
        now = time.time()
        t_ms = self.place(track, at_ms, now)
        self.recorder.media("pcm16", data, t_ms, track, form=(rate, channels))
        job = Pcm(track=track, t_ms=t_ms, rate=rate, channels=channels, data=data)
        return self._post(job, track, t_ms, now, wait=wait)

    async def flush(self) -> int:
        """Wait until all that was taken is in the lanes; session time of the newest picture, -1 for none."""
        settled = asyncio.get_running_loop().create_future()
        await self._delivery.room(0)
        self._delivery.put(Work(Flush(), time.time(), settled=settled), 0)
        await settled
        return self._newest_ms

    def place(self, number: int, at_ms: int | None, now: float) -> int:
        """Session time of media that come without a capture time. Raises BadRequest where it is past already."""
        if at_ms is None:
            period_ms = 1000 / self.setup.fps if self._lossless and self.clock.newest_ms >= 0 else 0
            at_ms = round(self.clock.expected(now) + period_ms)
        try:
            return self.clock.place(number, at_ms, now).t_ms
        except BackwardTime as error:
            raise BadRequest(str(error), param="at_ms") from None

    @contextmanager
    def reading_file(self) -> Iterator[None]:
        """Held while a file is read. Raises Conflict where another one is."""
        if self._reading_file:
            raise Conflict("another file of this session is still being read")
        self._reading_file = True
        try:
            yield
        finally:
            self._reading_file = False

    def sampled(self, t_ms: int) -> None:
        """A picture at ``t_ms`` is on its way to the lane."""
        self._newest_ms = max(self._newest_ms, t_ms)

    def streamed(self, count: int, t_ms: int | None) -> None:
        """A slice held ``count`` pictures, the newest of those sampled at ``t_ms``."""
        now = time.time()
        self.tally.came("socket", now, count)
        if t_ms is not None:
            self.sampled(t_ms)
            self.clock.advance(t_ms, now)

    def arrived(self, t_ms: int) -> None:
        """A picture that did not come through the inbox is in its lane."""
        self.sampled(t_ms)
        self._delivery.arrived(t_ms)

    async def asked(self) -> int:
        """A question was asked: wait for the pictures that came before it to be in their lane, but not for long.

        Returns:
            Session time of the newest picture in its lane or on the way there, -1 for none.
        """
        self._delivery.pin()
        came_ms = max(self._newest_ms, self._sliced_ms)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.ask_s):
                await self._delivery.until(came_ms)
        return min(self._newest_ms, came_ms)

    # --- how it is ----------------------------------------------------------------------------------------------------

    def acknowledgements(self) -> Iterator[tuple[int, int, int]]:
        """Of each track that clients feed: number, sequence up to which all is settled, chunks received."""
        for track in self._tracks.values():
            if track.settled >= 0 and track.number not in self._pulled:
                yield track.number, track.settled, track.received

    def stats(self) -> IngestStats:
        stats = self.tally.stats(time.time(), self.clock)
        return msgspec.structs.replace(stats, conditions=self._health.conditions)

    # --- small steps --------------------------------------------------------------------------------------------------

    def _track(self, number: int) -> Track:
        if number not in self._tracks:
            if len(self._tracks) >= self._limits.tracks:
                raise BadMedia(f"a session has at most {self._limits.tracks} tracks", param="track")
            self._tracks[number] = Track(number, Sampler(self.setup.fps))
        return self._tracks[number]

    def _check_publisher(self, listener: Listener) -> None:
        if self._listener is not listener:
            raise Replaced("another connection feeds this session")

    def _check_picture(self, codec: StillCodec, data: bytes) -> None:
        width, height = picture_size(codec, data)
        most = self._limits.webp_pixels if codec == "webp" else self._limits.picture_pixels
        if width * height > most:
            raise TooLarge(f"a picture of {width}x{height} has more pixels than are accepted")

    def _check_sound(self, data: bytes, rate: int, channels: int) -> None:
        """Each tenth of a second is an entry of the lane: minutes at once would hold up all that comes after them."""
        if len(data) > 2 * channels * rate * self._limits.sound_s:
            raise TooLarge(f"one piece of sound has at most {self._limits.sound_s:g} seconds")

    def _stamp(self, track: Track, chunk: Chunk, now: float) -> Stamp | None:
        """None for a chunk that is not to be taken: one that was before, or one more that is out of order."""
        if track.repeats(chunk.sequence, chunk.capture_us):
            return None
        try:
            stamp = self.clock.capture(chunk.track, chunk.capture_us, now, resumes=chunk.sequence > 0)
        except BackwardTime as error:
            if chunk.sequence <= track.offered:
                return None
            self.tally.dropped("backward")
            if not track.refuse(chunk.sequence):
                return None
            raise BadMedia(f"{error}: capture times must not go back") from None
        if stamp.gap_ms or stamp.jump_ms:
            data = {"track": chunk.track, "gap_ms": stamp.gap_ms, "jump_ms": stamp.jump_ms}
            self.tell(notice_event("discontinuity", "capture times jumped, or media was absent", data))
        return stamp

    def _job(self, track: Track, chunk: Chunk, t_ms: int, *, continues: bool) -> Job | None:
        number = track.number
        if chunk.codec is Codec.PCM16:
            return Pcm(track=number, t_ms=t_ms, rate=track.rate, channels=track.channels, data=chunk.data)
        if chunk.codec in SOUNDS:
            return SoundUnit(codec=SOUNDS[chunk.codec], track=number, t_ms=t_ms, data=chunk.data)
        if chunk.codec in STREAMS:
            self._sliced_ms = max(self._sliced_ms, t_ms)
            form = STREAMS[chunk.codec]
            return Slice(form=form, track=number, t_ms=t_ms, data=chunk.data, fresh=not continues)
        keep = track.sampler.keep(t_ms)
        if keep:
            self.sampled(t_ms)
        if chunk.codec in VIDEOS:
            codec = VIDEOS[chunk.codec]
            return Unit(codec=codec, track=number, t_ms=t_ms, data=chunk.data, keep=keep, fresh=not continues)
        return Still(codec=STILLS[chunk.codec], track=number, t_ms=t_ms, data=chunk.data) if keep else None

    def _post(self, job: Job, number: int, t_ms: int, now: float, *, wait: bool) -> Posted:
        settled = asyncio.get_running_loop().create_future() if wait else None
        size = len(job.data) if isinstance(job, Still | Pcm) else 0
        self._delivery.put(Work(job, now, self._track(number), settled=settled), size)
        return Posted(t_ms, settled)
