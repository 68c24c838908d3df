"""A worker without a model: it owns sessions by the rules of the bus and answers with the colour of what it saw last.

Run as ``python -m tests.server.fake_worker URL [MODEL [SESSIONS]]`` it is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from PIL import Image, ImageStat

from protocol.bus import Bus
from protocol.errors import BusUnavailable, LeaseLost, NotFound, SessionClosed
from protocol.ids import EntryId
from protocol.leases import Cursor, Lease
from protocol.messages import (
    AnswerDelta,
    AnswerDone,
    AnswerStarted,
    Ask,
    Cancel,
    Close,
    Lane,
    MediaEnd,
    ModelCard,
    Output,
    Owned,
    Picture,
    SessionStats,
    Sound,
    Timing,
    Usage,
    WorkerCard,
)

COLOURS = {
    (1, 0, 0): "red",
    (0, 1, 0): "green",
    (0, 0, 1): "blue",
    (1, 1, 1): "white",
    (0, 0, 0): "black",
    (1, 1, 0): "yellow",
}
UPKEEP_S = 0.2
WAIT_MS = 300


def make_card(
    worker_id: str = "w_fake", model: str = "fake", *, sessions: int = 8, capacity: int = 100_000
) -> WorkerCard:
    card = ModelCard(
        name=model,
        frame_width=64,
        frame_height=48,
        tokens_per_frame=4,
        pictures_per_grid=1,
        max_fps=4.0,
        default_budget_tokens=1024,
        max_budget_tokens=4096,
        bytes_per_token=64,
        policies=["full", "window"],
    )
    return WorkerCard(worker_id=worker_id, model=card, capacity_tokens=capacity, max_sessions=sessions)


def colour_of(jpeg: bytes) -> str:
    with Image.open(io.BytesIO(jpeg)) as image:
        mean = ImageStat.Stat(image.convert("RGB")).mean
    bits = tuple(int(channel > 90) for channel in mean)
    return COLOURS.get((bits[0], bits[1], bits[2]), "grey")


@dataclass
class _Owned:
    lease: Lease
    positions: dict[Lane, EntryId]
    counts: dict[Lane, int] = field(default_factory=lambda: {"audio": 0, "video": 0, "control": 0})
    seen: list[tuple[int, str]] = field(default_factory=list)  # session time and colour of each picture
    pictures: list[Picture] = field(default_factory=list)
    sounds: list[Sound] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: set[str] = field(default_factory=set)
    written: int = 0
    order: asyncio.Lock = field(default_factory=asyncio.Lock)


class FakeWorker:
    """``paused`` stops it from reading lanes; ``words`` are said before the colour, one token each."""

    def __init__(self, bus: Bus, card: WorkerCard | None = None) -> None:
        self.bus = bus
        self.card = card or make_card()
        self.owned: dict[str, _Owned] = {}
        self.reading = asyncio.Event()
        self.reading.set()
        self.speaking = asyncio.Event()
        self.speaking.set()
        self.words: list[str] = []
        self.advertised = asyncio.Event()
        self._taken_in = asyncio.Event()
        self._tail = bus.follow_lanes(self.card.worker_id)

    async def run(self) -> None:
        """Own sessions until cancelled."""
        await self._advertise()
        self.advertised.set()
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._upkeep())
            self._tasks.create_task(self._read())

    async def saw(self, session_id: str, enough: Callable[[_Owned], bool]) -> _Owned:
        """The session's state once there is enough of it."""
        async with asyncio.timeout(20):
            while session_id not in self.owned or not enough(self.owned[session_id]):
                self._taken_in.clear()
                await self._taken_in.wait()
        return self.owned[session_id]

    async def _advertise(self) -> None:
        owned = {name: session.lease.spec.budget_tokens for name, session in self.owned.items()}
        await self.bus.placement.advertise(self.card, owned)

    async def _upkeep(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_S)
            try:
                await self._advertise()
                await self.bus.leases.renew([(s.lease, self._stats(s)) for s in self.owned.values()])
                for session_id in await self.bus.placement.orphans(self.card.model.name):
                    await self._take(session_id)
            except BusUnavailable:
                continue

    def _stats(self, session: _Owned) -> SessionStats:
        newest = session.seen[-1][0] if session.seen else -1
        return SessionStats(trunk_time_ms=newest, frames_prefilled=len(session.seen), tokens=4 * len(session.seen))

    async def _read(self) -> None:
        try:
            while True:
                positions = {
                    (name, lane): position
                    for name, session in self.owned.items()
                    for lane, position in session.positions.items()
                    if lane == "control" or self.reading.is_set()
                }
                try:
                    batch = await self._tail.read(positions)
                except BusUnavailable:
                    await asyncio.sleep(0.1)
                    continue
                for session_id in batch.called:
                    await self._take(session_id)
                for entry in batch.entries:
                    session = self.owned[entry.session_id]
                    session.positions[entry.lane] = entry.id
                    session.counts[entry.lane] += 1
                    await self._take_in(session, entry.message)
                await self.bus.leases.commit([(s.lease, _cursors(s)) for s in self.owned.values()])
        finally:
            await self._tail.aclose()

    async def _take(self, session_id: str) -> None:
        if session_id in self.owned:
            return
        try:
            lease = await self.bus.leases.acquire(session_id, self.card.worker_id)
        except (NotFound, SessionClosed, LeaseLost):
            return
        start = EntryId(0, 0)
        session = _Owned(lease, {"audio": start, "video": start, "control": lease.control_cursor})
        self.owned[session_id] = session
        await self._say(session, Owned(worker_id=self.card.worker_id))
        for question_id in lease.unanswered:
            record = await self.bus.outputs.question(session_id, question_id)
            self._tasks.create_task(self._answer(session, record.ask))

    async def _take_in(self, session: _Owned, message: object) -> None:
        match message:
            case Picture():
                session.pictures.append(message)
                session.seen.append((message.t_ms, colour_of(message.jpeg)))
            case Sound():
                session.sounds.append(message)
            case Ask():
                self._tasks.create_task(self._answer(session, message))
            case Cancel():
                session.cancelled.add(message.question_id)
                self.speaking.set()
            case MediaEnd():
                session.ends.append(message.at_ms)
            case Close():
                spec = session.lease.spec
                del self.owned[spec.session_id]
                epoch, worker_id = session.lease.epoch, self.card.worker_id
                await self.bus.sessions.finish(spec.session_id, message.reason, worker_id=worker_id, epoch=epoch)
                await self.bus.placement.vacate(worker_id, spec.model, spec.session_id, "closed")
        session.moved.set()
        self._taken_in.set()

    async def _answer(self, session: _Owned, ask: Ask) -> None:
        try:
            async with asyncio.timeout(WAIT_MS / 1000):
                while not session.seen or session.seen[-1][0] < ask.at_ms:
                    session.moved.clear()
                    await session.moved.wait()
        except TimeoutError:
            pass
        as_of, colour = next(
            ((t, c) for t, c in reversed(session.seen) if t <= ask.at_ms),
            session.seen[-1] if session.seen else (-1, "nothing"),
        )
        await self._say(session, AnswerStarted(question_id=ask.question_id, as_of_ms=as_of, mode=ask.mode))
        said: list[str] = []
        for index, word in enumerate([*self.words, colour]):
            await self.speaking.wait()
            if ask.question_id in session.cancelled:
                break
            text = word if not said else f" {word}"
            said.append(text)
            delta = AnswerDelta(question_id=ask.question_id, index=index, token_ids=[index], text=text)
            await self._say(session, delta)
        done = AnswerDone(
            question_id=ask.question_id,
            text="".join(said),
            finish_reason="cancelled" if ask.question_id in session.cancelled else "stop",
            as_of_ms=as_of,
            usage=Usage(prompt_tokens=len(ask.text.split()), completion_tokens=len(said)),
            timing=Timing(queued_ms=1.0, first_token_ms=2.0, total_ms=3.0),
        )
        await self._say(session, done)

    async def _say(self, session: _Owned, output: Output) -> None:
        session_id, epoch = session.lease.session_id, session.lease.epoch
        async with session.order:
            with contextlib.suppress(LeaseLost, BusUnavailable):
                await self.bus.outputs.append(session_id, epoch, [(session.written, output)])
            session.written += 1


def _cursors(session: _Owned) -> Mapping[Lane, Cursor]:
    return {lane: Cursor(position, session.counts[lane]) for lane, position in session.positions.items()}


async def main(url: str, model: str = "fake", sessions: str = "8") -> None:
    bus = await Bus.connect(url)
    await FakeWorker(bus, make_card(model=model, sessions=int(sessions))).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
