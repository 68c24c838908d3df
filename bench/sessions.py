"""Live sessions on an engine in its own process, as a worker leads them: cameras and people come when they come.

Each session has a camera of one picture a second at uneven distances, and somebody who asks now and then. An age is
counted from the moment at which a picture's JPEG bytes are there until the engine says that it is in memory, or like
the one before; on a GPU what the engine says so of may still be under way, by one step at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from random import Random

from bench.camera import View, jpeg
from bench.host import percentile
from bench.load import LiveLoad
from protocol.messages import Picture
from workers.engine.client import EngineClient
from workers.engine.messages import (
    AskQuestion,
    CloseSession,
    Event,
    FrameTaken,
    OpenSession,
    QuestionDone,
    Refused,
    Tokens,
)
from workers.feed import FrameFeed
from workers.models.chat import INSTRUCTIONS
from workers.pictures import PictureDecoder

QUESTION = "What is on the table now?"
WAIT_S = 0.3
IN_MEMORY = ("prefilled", "dropped_similar")
UNDER_WAY = 8
LOOK_S = 0.02
LATE_S = 60.0  # for what is still under way when a trial is over


@dataclass(slots=True)
class Seen:
    """What a trial showed; times in seconds, `lost` pictures by reason, `failed` questions.

    Pictures `taken` are those that were in memory before the last one was shown.
    """

    seconds: float = 0.0
    ages: list[float] = field(default_factory=list)
    taken: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    similar: int = 0
    failed: int = 0

    def broken(self, load: LiveLoad) -> list[str]:
        """Which of the promises did not hold; none, and the load is carried."""
        told = {
            f"pictures lost: {dict(+self.lost)}": self.lost.total() > 0,
            f"questions failed: {self.failed}": self.failed > 0,
            "a picture was too old": max(self.ages, default=0.0) > load.age_s,
            "first tokens came too late": percentile(self.first, 0.95) > load.first_token_s,
            "tokens came too slowly": percentile(self.between, 0.99) > load.between_s,
        }
        return [what for what, so in told.items() if so]

    def figures(self) -> dict[str, float]:
        return {
            "seconds": round(self.seconds, 1),
            "frames": len(self.ages),
            "fps": round(self.taken / self.seconds, 2) if self.seconds else 0.0,
            "similar": self.similar,
            "lost": self.lost.total(),
            "frame_age_p50_ms": _ms(percentile(self.ages, 0.5)),
            "frame_age_p99_ms": _ms(percentile(self.ages, 0.99)),
            "frame_age_max_ms": _ms(max(self.ages, default=float("nan"))),
            "questions": len(self.first),
            "questions_failed": self.failed,
            "first_token_p50_ms": _ms(percentile(self.first, 0.5)),
            "first_token_p95_ms": _ms(percentile(self.first, 0.95)),
            "tokens": len(self.between),
            "between_p50_ms": _ms(percentile(self.between, 0.5)),
            "between_p99_ms": _ms(percentile(self.between, 0.99)),
        }


class Live:
    """One session: its camera, its feed, and what came of both."""

    def __init__(self, engine: EngineClient, decoder: PictureDecoder, number: int) -> None:
        self.name, self.number = f"live{number}", number
        self._engine = engine
        self.feed = FrameFeed(engine, decoder, self.name, under_way=UNDER_WAY, live_lag_s=2.0, has_room=lambda: None)
        self.due: dict[int, float] = {}
        self.asked: dict[str, list[float]] = {}
        self.answered = asyncio.Event()
        self.shown = self.questions = 0
        self.side = engine.ready.card.frame_width

    def show(self, picture: bytes, *, lossless: bool) -> None:
        """The camera's next picture, a second after the last."""
        t_ms = 1000 * self.shown
        self.shown += 1
        self.due[t_ms] = time.monotonic()
        size = {"width": self.side, "height": self.side}
        shown = Picture(t_ms=t_ms, track=0, sequence=self.shown, jpeg=picture, arrived_at=time.time(), **size)
        self.feed.offer(shown, lossless=lossless)

    def taken(self, event: FrameTaken) -> float:
        """When the picture that the engine is done with was there.

        Those before one that is in memory were let go, if any are left; one that is refused is so before its turn.
        """
        self.feed.taken(event)
        due = self.due.pop(event.t_ms)
        if event.outcome in IN_MEMORY:
            for t_ms in [earlier for earlier in self.due if earlier < event.t_ms]:
                del self.due[t_ms]
        return due

    @property
    def under_way(self) -> int:
        """Pictures that nothing has become of yet."""
        return self.shown - self.feed.prefilled - self.feed.dropped.total()

    @property
    def lost(self) -> Counter[str]:
        """Pictures that came to nothing so far, by reason."""
        return Counter({reason: count for reason, count in self.feed.dropped.items() if reason != "similar"})

    async def ask(self, max_tokens: int) -> None:
        """A question about the newest picture; once it has its answer, `answered` is set."""
        self.questions += 1
        self.answered.clear()
        question_id = f"{self.name}-{self.questions}"
        self.asked[question_id] = [time.monotonic()]
        await self._engine.send(
            AskQuestion(
                session_id=self.name,
                question_id=question_id,
                text=QUESTION,
                at_ms=1000 * (self.shown - 1),
                wait_until=time.monotonic() + WAIT_S,
                max_tokens=max_tokens,
            )
        )


class Crowd:
    """Sessions on one engine, more and more of them. Its tasks belong to the caller's group."""

    def __init__(
        self, engine: EngineClient, view: View, makers: ProcessPoolExecutor, load: LiveLoad, budget: int
    ) -> None:
        self._engine, self._view, self._makers, self._load, self._budget = engine, view, makers, load, budget
        self._decoder = PictureDecoder(4)
        self._sessions: dict[str, Live] = {}
        self._feeding: dict[str, asyncio.Task[None]] = {}
        self._chance, self._seen, self._measuring = Random(1), Seen(), False
        self._opens = self._ends = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    async def hear(self) -> None:
        """Takes what the engine says, until it has nothing more to say."""
        async for event in self._engine.events():
            self._take(event)

    async def grow(self, group: asyncio.TaskGroup, count: int, fill: int) -> None:
        """Opens sessions until there are `count`, and shows each of the new ones `fill` pictures at once."""
        new = [Live(self._engine, self._decoder, number) for number in range(len(self), count)]
        for session in new:
            self._sessions[session.name] = session
            opening = {"budget_tokens": self._budget, "policy": "window", "instructions": INSTRUCTIONS}
            await self._engine.send(OpenSession(session_id=session.name, complete=self._load.complete, **opening))  # type: ignore[arg-type]
            self._feeding[session.name] = group.create_task(session.feed.run())
        for _ in range(fill):
            made = [self._made(session.number, session.shown) for session in new]
            for session, picture in zip(new, made, strict=True):
                session.show(await picture, lossless=True)
            await self._quiet(new)

    async def shrink(self, count: int) -> None:
        """Closes the newest sessions until `count` are left."""
        for name in list(self._sessions)[count:]:
            self._feeding.pop(name).cancel()
            await self._engine.send(CloseSession(session_id=name))
            del self._sessions[name]

    async def run(self, seconds: float) -> Seen:
        """All sessions live for so long, and what that showed once they had settled."""
        self._measuring = False
        start = time.monotonic() + 0.5
        self._opens = start + self._load.settle
        self._ends = self._opens + seconds
        sessions, talks = list(self._sessions.values()), self._load.answers
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(self._film(session, start))
                if not talks:
                    group.create_task(self._wonder(session, start))
            for number in range(talks):
                group.create_task(self._talk(sessions[number::talks]))
            await _until(self._opens)
            self._seen, self._measuring = Seen(seconds=seconds), True
            lost = self._lost()
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_S):
                await self._quiet(list(self._sessions.values()))
        self._measuring = False
        self._seen.lost.update(self._lost() - lost)
        self._seen.lost["unfinished"] += sum(session.under_way for session in self._sessions.values())
        self._seen.failed += sum(len(session.asked) for session in self._sessions.values())
        return self._seen

    async def close(self) -> None:
        await self.shrink(0)
        self._decoder.close()

    # --- what goes on in each session ---------------------------------------------------------------------------------

    async def _film(self, session: Live, start: float) -> None:
        offset, fps = self._chance.random(), self._load.fps
        for number in range(int((self._ends - start) * fps)):
            coming = self._made(session.number, session.shown)
            await _until(start + (number + offset + self._chance.uniform(0, self._load.jitter)) / fps)
            session.show(await coming, lossless=self._load.complete)

    async def _wonder(self, session: Live, start: float) -> None:
        due = start + 1 + self._chance.random() * self._load.every
        while due < self._ends:
            await _until(due)
            await session.ask(self._load.answer_tokens)
            due += self._load.every

    async def _talk(self, sessions: Sequence[Live]) -> None:
        for session in cycle(sessions):
            if time.monotonic() >= self._ends:
                return
            await session.ask(self._load.answer_tokens)
            await session.answered.wait()

    def _made(self, camera: int, number: int) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().run_in_executor(self._makers, jpeg, self._view, camera, number)

    async def _quiet(self, sessions: Sequence[Live]) -> None:
        """Returns when nothing of these sessions is under way."""
        while any(session.under_way or session.asked for session in sessions):  # noqa: ASYNC110  # nobody tells what feeds let go
            await asyncio.sleep(LOOK_S)

    def _lost(self) -> Counter[str]:
        return sum((session.lost for session in self._sessions.values()), Counter())

    def _take(self, event: Event) -> None:
        session = self._sessions.get(getattr(event, "session_id", ""))
        if session is None:
            return
        now = time.monotonic()
        if isinstance(event, FrameTaken):
            age = now - session.taken(event)
            if self._measuring and event.outcome in IN_MEMORY:
                self._seen.ages.append(age)
                self._seen.taken += now <= self._ends
                self._seen.similar += event.outcome == "dropped_similar"
        elif isinstance(event, Tokens):
            session.asked[event.question_id].append(now)
        elif isinstance(event, QuestionDone | Refused):
            self._answered(session, event)

    def _answered(self, session: Live, event: QuestionDone | Refused) -> None:
        asked, *told = session.asked.pop(event.question_id, [0.0])
        session.answered.set()
        if not self._measuring:
            return
        if not told:
            self._seen.failed += 1
            return
        self._seen.first.append(told[0] - asked)
        within = [at for at in told if self._opens <= at <= self._ends]
        self._seen.between += [after - before for before, after in pairwise(within)]


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)
