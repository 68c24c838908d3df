"""Brings outputs back: one read over all the sessions that this gateway follows, handed on to bounded readers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from protocol.bus import Bus
from protocol.errors import BusUnavailable, LonglookError
from protocol.ids import EntryId
from protocol.messages import Output
from protocol.outputs import OutputTail

logger = logging.getLogger(__name__)

PAUSE_S = 0.2
DEPTH = 1024  # events that one reader may be behind
REPLAY_PAGE = 1_000


class SlowReader(LonglookError):
    """A reader let its queue fill up; it may come back with the id of the last event that it has."""

    code = "timeout"
    status = 504


@dataclass(frozen=True)
class Relayed:
    """An output of a session. ``id`` is None for what this gateway says itself; it cannot be resumed from."""

    session_id: str
    id: EntryId | None
    output: Output


class Subscription:
    """One reader's bounded queue of a session's outputs, in order, none twice."""

    def __init__(self, after: EntryId, depth: int = DEPTH) -> None:
        self._queue: deque[Relayed] = deque()
        self._arrived = asyncio.Event()
        self._depth = depth
        self.began = after  # what comes has later ids
        self._last = after
        self._held: list[Relayed] | None = []  # live outputs that came while older ones were still being fetched
        self._finished = False
        self.overflowed = False

    def finish(self) -> None:
        """No more will come: the session is over, or the gateway is going down."""
        self._finished = True
        self._arrived.set()

    def push(self, relayed: Relayed) -> None:
        """Take a live output. A reader that is ``depth`` behind gets no more."""
        if self._held is not None:
            if len(self._held) >= self._depth:
                self.overflowed = True
            else:
                self._held.append(relayed)
        else:
            self._take(relayed)

    def replayed(self, older: list[Relayed]) -> None:
        """What the stream still held at the beginning; live outputs follow from here."""
        held, self._held = self._held or [], None
        for relayed in [*older, *held]:
            self._take(relayed)

    async def next(self) -> Relayed | None:
        """Waits for the next output; None when no more will come. Raises SlowReader once outputs were left out."""
        while not self._queue:
            if self.overflowed:
                raise SlowReader("the reader fell too far behind")
            if self._finished:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()

    def __len__(self) -> int:
        return len(self._queue)

    def _take(self, relayed: Relayed) -> None:
        if relayed.id is not None:
            if relayed.id <= self._last:
                return
            self._last = relayed.id
        if self.overflowed or len(self._queue) >= self._depth:
            self.overflowed = True
        else:
            self._queue.append(relayed)
        self._arrived.set()


@dataclass
class _Followed:
    position: EntryId
    subscriptions: set[Subscription]
    holds: int = 0


class Relay:
    """Follows the output streams of the sessions that somebody here waits for."""

    def __init__(self, bus: Bus, gateway_id: str) -> None:
        self._bus = bus
        self._tail: OutputTail = bus.follow_outputs(gateway_id)
        self._followed: dict[str, _Followed] = {}
        self._grown = asyncio.Event()
        self._observe: Callable[[Relayed], None] = lambda relayed: None

    @asynccontextmanager
    async def subscribe(
        self, session_id: str, after: EntryId | None = None, *, over: bool = False
    ) -> AsyncIterator[Subscription]:
        """Outputs after an id, or from now on; ``over``: no others than were said by now. Raises BusUnavailable."""
        async with self.following(session_id) as position:
            subscription = Subscription(position if after is None else after)
            readers = self._followed[session_id].subscriptions
            readers.add(subscription)
            try:
                subscription.replayed([] if after is None else await self._since(session_id, after))
                if over:
                    subscription.finish()
                yield subscription
            finally:
                readers.discard(subscription)

    @asynccontextmanager
    async def following(self, session_id: str) -> AsyncIterator[EntryId]:
        """Keep reading a session's outputs; yields the position from which they are sure to be seen."""
        position = await self.hold(session_id)
        try:
            yield position
        finally:
            self.release(session_id)

    async def hold(self, session_id: str) -> EntryId:
        """Like ``following``, ended by ``release``."""
        if session_id not in self._followed:
            newest = await self._bus.outputs.newest(session_id)
            self._followed.setdefault(session_id, _Followed(newest, set()))
        followed = self._followed[session_id]
        followed.holds += 1
        position = followed.position
        if followed.holds == 1:
            self._grown.set()
            try:
                await self._tail.wake()
            except BusUnavailable:
                logger.debug("the relay finds the new session at its next read")
        return position

    def release(self, session_id: str) -> None:
        """Ends one ``hold``; a session that nobody holds is read no more."""
        followed = self._followed[session_id]
        followed.holds -= 1
        if not followed.holds:
            del self._followed[session_id]

    def say(self, session_id: str, output: Output) -> None:
        """Give the session's readers here an output that no stream holds."""
        self._hand_on(Relayed(session_id, None, output))

    def finish(self) -> None:
        """End every reader's wait."""
        for followed in self._followed.values():
            for subscription in followed.subscriptions:
                subscription.finish()

    def sessions(self) -> list[str]:
        """Ids of the sessions whose outputs are read here."""
        return list(self._followed)

    async def run(self, observe: Callable[[Relayed], None]) -> None:
        """Read until cancelled; a bus that is away is tried again.

        Args:
            observe: called with every output, before the readers get it.
        """
        self._observe = observe
        try:
            while True:
                if not self._followed:
                    self._grown.clear()
                    await self._grown.wait()
                try:
                    events = await self._tail.read({name: f.position for name, f in self._followed.items()})
                except LonglookError as error:
                    logger.warning("outputs cannot be read: %s", error.message)
                    await asyncio.sleep(PAUSE_S)
                    continue
                for event in events:
                    followed = self._followed.get(event.session_id)
                    if followed is not None and event.id > followed.position:
                        followed.position = event.id
                        self._hand_on(Relayed(event.session_id, event.id, event.output))
        finally:
            await self._tail.aclose()

    def _hand_on(self, relayed: Relayed) -> None:
        self._observe(relayed)
        followed = self._followed.get(relayed.session_id)
        for subscription in tuple(followed.subscriptions) if followed is not None else ():
            subscription.push(relayed)

    async def _since(self, session_id: str, after: EntryId) -> list[Relayed]:
        found: list[Relayed] = []
        while True:
            page = await self._bus.outputs.since(session_id, after, count=REPLAY_PAGE)
            found += [Relayed(session_id, event.id, event.output) for event in page]
            if len(page) < REPLAY_PAGE or len(found) >= DEPTH:
                return found
            after = page[-1].id
