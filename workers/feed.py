"""One session's pictures on their way from its video lane to the engine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.errors import BadMedia
from protocol.messages import Picture
from workers.engine.messages import Command, EndMedia, Event, FrameTaken, PushFrame, Ready
from workers.pictures import PictureDecoder

NO_DEADLINE_S = 3600.0


class Engine(Protocol):
    """What the worker needs of an engine: ``workers.engine.client.EngineClient``."""

    @property
    def ready(self) -> Ready: ...

    @property
    def working(self) -> Sequence[str]: ...

    async def send(self, command: Command) -> None: ...

    def events(self) -> AsyncIterator[Event]: ...

    async def acquire_slot(self) -> int: ...

    def release_slot(self, slot: int) -> None: ...

    def pixels(self, slot: int, height: int, width: int) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class _Waiting:
    picture: Picture
    lossless: bool
    appended: float  # time.monotonic()


class FrameFeed:
    """A bounded queue of pictures; the newest win where the session may lose some, the lane waits where it may not.

    ``offer`` never waits. ``run`` decodes into the engine's slots and pushes, at most ``under_way`` at a time.
    """

    def __init__(
        self,
        engine: Engine,
        decoder: PictureDecoder,
        engine_id: str,
        *,
        under_way: int,
        live_lag_s: float,
        has_room: Callable[[], None],
    ) -> None:
        """``has_room`` is called when ``full`` becomes false again."""
        self._engine = engine
        self._decoder = decoder
        self._engine_id = engine_id
        self._bound = under_way
        self._live_lag_s = live_lag_s
        self._has_room = has_room
        self.full = False  # a lane whose pictures must not be lost is left unread while this is true
        self._waiting: deque[_Waiting | EndMedia] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(under_way)
        self._appended: dict[int, float] = {}
        self._sequence = 0
        self._newest_ms = -1
        self.dropped: Counter[str] = Counter()
        self.prefilled = 0
        self.trunk_time_ms = -1
        self.lag_ms = 0.0
        self.tokens = 0
        self.kv_bytes = 0

    @property
    def depth(self) -> int:
        return len(self._waiting)

    def offer(self, picture: Picture, *, lossless: bool, age_s: float = 0.0) -> None:
        """Takes a picture, ``age_s`` after its append. Where too many wait, the oldest that may be lost goes."""
        if picture.t_ms < self._newest_ms:
            self.dropped["order"] += 1
            return
        self._newest_ms = picture.t_ms
        self._waiting.append(_Waiting(picture, lossless, time.monotonic() - age_s))
        if len(self._waiting) > self._bound:
            self._shed()
        self.full = len(self._waiting) >= self._bound
        self._news.set()

    def end(self) -> None:
        """Tells the engine, after all pictures offered so far, that no more are on their way."""
        self._waiting.append(EndMedia(session_id=self._engine_id))
        self._news.set()

    async def run(self) -> None:
        """Feeds the engine until cancelled. Raises EngineDied."""
        while True:
            while self._waiting:
                item = self._waiting.popleft()
                if self.full and len(self._waiting) <= self._bound // 2:
                    self.full = False
                    self._has_room()
                if isinstance(item, EndMedia):
                    await self._engine.send(item)
                else:
                    await self._push(item)
            self._news.clear()
            await self._news.wait()

    def taken(self, event: FrameTaken) -> None:
        """The engine is done with a frame."""
        self._room.release()
        appended = self._appended.pop(event.sequence, None)
        if event.outcome == "prefilled":
            self.prefilled += 1
            self.trunk_time_ms = event.t_ms
            self.tokens, self.kv_bytes = event.tokens, event.kv_bytes
            if appended is not None:
                self.lag_ms = round((time.monotonic() - appended) * 1000, 1)
        elif event.outcome == "dropped_similar":  # it needed no room: the trunk knows already what it shows
            self.trunk_time_ms = event.t_ms
            self.dropped["similar"] += 1
        elif event.outcome != "dropped_closed":
            self.dropped[event.outcome.removeprefix("dropped_")] += 1

    def _shed(self) -> None:
        for n, item in enumerate(self._waiting):
            if isinstance(item, _Waiting) and not item.lossless:
                del self._waiting[n]
                self.dropped["backlog"] += 1
                return

    async def _push(self, item: _Waiting) -> None:
        await self._room.acquire()
        picture = item.picture
        patience = NO_DEADLINE_S if item.lossless else item.appended + self._live_lag_s - time.monotonic()
        if patience <= 0:
            self._room.release()
            self.dropped["late"] += 1
            return
        deadline = time.monotonic() + patience
        slot = await self._engine.acquire_slot()
        look = await self._decoded(picture, slot)
        if look is None:
            self._engine.release_slot(slot)
            self._room.release()
            self.dropped["undecodable"] += 1
            return
        self._sequence += 1
        self._appended[self._sequence] = item.appended
        await self._engine.send(
            PushFrame(
                session_id=self._engine_id,
                sequence=self._sequence,
                t_ms=picture.t_ms,
                slot=slot,
                width=picture.width,
                height=picture.height,
                deadline=deadline,
                look=look,
            )
        )

    async def _decoded(self, picture: Picture, slot: int) -> bytes | None:
        """The picture's look once it is in its slot; None if it cannot be decoded."""
        try:
            decoding = self._decoder.decode(picture, self._engine.pixels(slot, picture.height, picture.width))
            return await asyncio.shield(decoding)
        except (BadMedia, ValueError):
            return None
        except asyncio.CancelledError:
            # The thread may still be writing: the slot is nobody else's before it is done.
            decoding.add_done_callback(lambda done: self._abandon(done, slot))
            raise

    def _abandon(self, decoding: asyncio.Future[bytes], slot: int) -> None:
        if not decoding.cancelled():
            decoding.exception()  # nobody else will look at it
        self._engine.release_slot(slot)
