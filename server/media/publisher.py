"""Writes one session's media lanes: alone, in order, and no faster than the worker where nothing may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from protocol.errors import BusFull, BusUnavailable, LaneFull, Replaced, TimedOut
from protocol.lanes import Lanes
from protocol.messages import PCM_BYTES_PER_MS, Lane, Picture, Sound
from server.media.jobs import PictureOut, SoundOut

PAUSE_S = 0.05
PIECES_PER_PICTURE = 10  # sound comes ten times a second: the reader may be that many more entries behind


class LanePublisher:
    """Claims the lanes at its first append. Sound that they hold by then is not appended again: the client of a gateway
    that died sends what that one had not acknowledged.

    Args:
        lossless: wait while the worker has more than ``backlog`` pictures to read, instead of letting old ones go;
            single appends may ask for that too.
        stall_s: how long a single append may wait, for the worker or for the bus.
        claimed: called whenever the lanes were claimed, before anything is appended. May raise BusUnavailable.
    """

    def __init__(
        self,
        lanes: Lanes,
        session_id: str,
        *,
        lossless: bool,
        backlog: int,
        stall_s: float,
        claimed: Callable[[], Awaitable[None]],
    ) -> None:
        self._lanes = lanes
        self._session_id = session_id
        self._lossless = lossless
        self._backlog: dict[Lane, int] = {"video": backlog, "audio": backlog * PIECES_PER_PICTURE}
        self._stall_s = stall_s
        self._tell_claimed = claimed
        self._generation: int | None = None
        self._sequences: dict[Lane, int] = {}
        self._heard: dict[
            int, int
        ] = {}  # session time of each track's sound that was there when the lanes were claimed
        self._order = asyncio.Lock()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def hold(self) -> None:
        """The lanes are gone, and will be made anew: what is to be appended waits until ``go_on``."""
        self._generation = None
        self._flowing.clear()

    def go_on(self) -> None:
        self._flowing.set()

    async def picture(self, out: PictureOut, arrived_at: float, *, lossless: bool = False) -> None:
        """Append a picture; ``arrived_at`` in Unix seconds.

        Raises:
            Replaced: a newer publisher feeds the session. TimedOut: neither room nor an answer within ``stall_s``.
            NotFound, SessionClosed: the session is over. BusFull: no room, and the picture may be lost.
        """
        picture = Picture(
            t_ms=out.t_ms,
            track=out.track,
            sequence=0,
            width=out.width,
            height=out.height,
            jpeg=out.jpeg,
            arrived_at=arrived_at,
        )
        await self._append("video", picture, lossless=lossless or self._lossless)

    async def sound(self, out: SoundOut, arrived_at: float, *, lossless: bool = False) -> None:
        """Append what is new of a piece of sound; otherwise like ``picture``."""
        sound = Sound(t_ms=out.t_ms, track=out.track, sequence=0, pcm=out.pcm, arrived_at=arrived_at)
        await self._append("audio", sound, lossless=lossless or self._lossless)

    async def _append(self, lane: Lane, media: Picture | Sound, *, lossless: bool) -> None:
        async with self._order:
            try:
                async with asyncio.timeout(self._stall_s):
                    backlog = await self._put(lane, media, lossless=lossless)
                    if lossless:
                        await self._wait_for_reader(lane, backlog)
            except TimeoutError:
                raise TimedOut("the session's worker or the bus does not keep up") from None
            except Replaced:
                self._generation = None
                raise

    async def _put(self, lane: Lane, media: Picture | Sound, *, lossless: bool) -> int:
        numbered: Picture | Sound | None = None
        generation = 0
        while True:
            try:
                claimed = await self._claimed()
                if claimed != generation:
                    generation, numbered = claimed, self._numbered(lane, media)
                if numbered is None:
                    return 0
                appended = await self._lanes.append(
                    self._session_id, generation, numbered.sequence, numbered, lossless=lossless
                )
                return appended.backlog
            except BusFull:
                if lane == "video":
                    await self._lanes.shed(self._session_id)
                    if not lossless:
                        raise
                await asyncio.sleep(PAUSE_S)
            except (LaneFull, BusUnavailable):
                await asyncio.sleep(PAUSE_S)

    async def _claimed(self) -> int:
        """This publisher's generation, once the lanes may be written to."""
        await self._flowing.wait()
        if self._generation is None:
            generation = await self._lanes.claim_publisher(self._session_id)
            self._heard = await self._lanes.heard(self._session_id)
            await self._tell_claimed()
            self._sequences = {"video": 0, "audio": 0}
            self._generation = generation
        return self._generation

    def _numbered(self, lane: Lane, media: Picture | Sound) -> Picture | Sound | None:
        """With a sequence that is never used twice, even where an append ends without an answer; None if it is old."""
        new = self._unheard(media) if isinstance(media, Sound) else media
        if new is None:
            return None
        self._sequences[lane] += 1
        return msgspec.structs.replace(new, sequence=self._sequences[lane])

    def _unheard(self, sound: Sound) -> Sound | None:
        """What of it was not in the lane when that was claimed."""
        known_ms = self._heard.get(sound.track, 0) - sound.t_ms
        if known_ms <= 0:
            self._heard.pop(sound.track, None)  # from here on all is new
            return sound
        pcm = sound.pcm[known_ms * PCM_BYTES_PER_MS :]
        return msgspec.structs.replace(sound, t_ms=sound.t_ms + known_ms, pcm=pcm) if pcm else None

    async def _wait_for_reader(self, lane: Lane, backlog: int) -> None:
        while backlog > self._backlog[lane]:
            await asyncio.sleep(PAUSE_S)
            try:
                backlog = (await self._lanes.backlog(self._session_id))[lane]
            except BusUnavailable:
                continue
