"""Writes one session's media lanes: alone, in order, and no faster than the worker where nothing may be lost."""

from __future__ import annotations

import asyncio

import msgspec

from protocol.errors import BusFull, BusUnavailable, LaneFull, Replaced, TimedOut
from protocol.lanes import Lanes
from protocol.messages import Lane, Picture, Sound
from server.media.jobs import PictureOut, SoundOut

PAUSE_S = 0.05
PIECES_PER_PICTURE = 10  # sound comes ten times a second: the reader may be that many more entries behind


class LanePublisher:
    """Claims the lanes at its first append, and again after it was replaced.

    Args:
        lossless: wait while the worker has more than ``backlog`` pictures to read, instead of letting old ones go;
            single appends may ask for that too.
        stall_s: how long a single append may wait, for the worker or for the bus.
    """

    def __init__(self, lanes: Lanes, session_id: str, *, lossless: bool, backlog: int, stall_s: float) -> None:
        self._lanes = lanes
        self._session_id = session_id
        self._lossless = lossless
        self._backlog: dict[Lane, int] = {"video": backlog, "audio": backlog * PIECES_PER_PICTURE}
        self._stall_s = stall_s
        self._generation: int | None = None
        self._sequences: dict[Lane, int] = {}
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
        """Append a piece of sound; otherwise like ``picture``."""
        sound = Sound(t_ms=out.t_ms, track=out.track, sequence=0, pcm=out.pcm, arrived_at=arrived_at)
        await self._append("audio", sound, lossless=lossless or self._lossless)

    async def _append(self, lane: Lane, media: Picture | Sound, *, lossless: bool) -> None:
        async with self._order:
            try:
                async with asyncio.timeout(self._stall_s):
                    await self._flowing.wait()
                    backlog = await self._put(lane, media, lossless=lossless)
                    if lossless:
                        await self._wait_for_reader(lane, backlog)
            except TimeoutError:
                raise TimedOut("the session's worker or the bus does not keep up") from None
            except Replaced:
                self._generation = None
                raise

    async def _put(self, lane: Lane, media: Picture | Sound, *, lossless: bool) -> int:
        if self._generation is None:
            self._generation = await self._lanes.claim_publisher(self._session_id)
            self._sequences = {"video": 0, "audio": 0}
        self._sequences[lane] += 1  # never used twice, even where an append ends without an answer
        sequence = self._sequences[lane]
        numbered = msgspec.structs.replace(media, sequence=sequence)
        while True:
            try:
                appended = await self._lanes.append(
                    self._session_id, self._generation, sequence, numbered, lossless=lossless
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

    async def _wait_for_reader(self, lane: Lane, backlog: int) -> None:
        while backlog > self._backlog[lane]:
            await asyncio.sleep(PAUSE_S)
            try:
                backlog = (await self._lanes.backlog(self._session_id))[lane]
            except BusUnavailable:
                continue
