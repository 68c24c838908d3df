"""An engine that only counts: the scheduler's own plans over simulated sessions, on a clock that predictions move."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

from workers.engine.costs import FILLING, StepCosts, StepCounts
from workers.engine.engine import CAPACITY
from workers.engine.fairness import Governor, Thinning, Turns
from workers.engine.scheduler import Prompt, Reading, StepLimits, StepPlan, Upcoming, plan


@dataclass(frozen=True, slots=True)
class Load:
    """What sessions do: `fps` frames a second each, jittered, of `tokens`, and a question `every` so many seconds.

    A session holds `keys` keys once it is full, from the start if `full`. A frame is dropped when it is `lag` seconds
    old. `answering` sessions have an answer from the start that does not end.
    """

    sessions: int
    seconds: float
    fps: float = 1.0
    every: float = 10.0
    tokens: int = 64
    keys: int = 2_500
    prompt: int = 16
    lag: float = 2.0
    jitter: float = 0.1
    full: bool = False
    answering: int = 0


class Arrival(NamedTuple):
    at: float
    kind: Literal["frame", "question"]
    session: int


def arrivals(load: Load, seed: int) -> list[Arrival]:
    """All that comes in, in order; sessions begin anywhere within their periods."""
    return sorted(itertools.chain.from_iterable(_of_session(load, seed, n) for n in range(load.sessions)))


def _of_session(load: Load, seed: int, session: int) -> Iterator[Arrival]:
    chance = Random(seed * 1_000_003 + session)
    begin = chance.random() / load.fps
    for n in range(int((load.seconds - begin) * load.fps)):
        late = min(abs(chance.gauss(0, load.jitter)), 3 * load.jitter)
        yield Arrival(begin + n / load.fps + late, "frame", session)
    asked = chance.random() * load.every
    while asked < load.seconds:
        yield Arrival(asked, "question", session)
        asked += load.every


@dataclass(slots=True)
class _Answer:
    session: int
    asked: float
    unread: int
    left: int
    sent: int = 0
    last: float = 0.0
    first: float = 0.0


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Session:
    frames: deque[float] = field(default_factory=deque)
    encoded: bool = False  # the oldest of them
    keys: int = 30
    served: int = 0
    late: int = 0
    thinned: int = 0
    thinning: Thinning = field(default_factory=Thinning)


@dataclass(slots=True)
class Told:
    """What a run showed, times in seconds; `served`, `late` and `thinned` are numbers of frames by session."""

    steps: list[tuple[StepCounts, float]] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    frame_age: list[float] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    thinned: list[int] = field(default_factory=list)
    planning: float = 0.0
    seconds: float = 0.0


class Simulation:
    """One engine with `limits` whose steps take what `costs` says.

    With a `host`, planning and launching a step takes it what that says, and it is a step ahead of the device, as on a
    GPU: what a step is to do is settled while the one before it runs.
    """

    def __init__(
        self,
        load: Load,
        costs: StepCosts,
        limits: StepLimits,
        lengths: Sequence[int],
        seed: int,
        frame_seconds: float = 0.0,
        host: StepCosts | None = None,
    ) -> None:
        """`lengths`: answers are as long as one of these, in tokens. `frame_seconds`: frame rates are governed so."""
        self._governor = Governor(CAPACITY) if frame_seconds else None
        self._governed = {str(n): frame_seconds for n in range(load.sessions)}
        self._load, self._costs, self._limits, self._lengths = load, costs, limits, lengths
        self._chance = Random(seed)
        self._sessions = [_Session(keys=load.keys if load.full else 30) for _ in range(load.sessions)]
        self._turns, self._host, self._end = Turns(), host, 0.0
        self._waiting: dict[int, None] = {}  # sessions with frames, in the order in which they came
        self._answers = [_Answer(n, 0.0, 0, 1 << 30, sent=1) for n in range(load.answering)]
        self._coming = deque(arrivals(load, seed))
        self._now = 0.0
        self._told = Told()

    def run(self) -> Told:
        """Until everything that came in has been dealt with."""
        while self._coming or self._waiting or any(answer.left < 1 << 20 for answer in self._answers):
            if not (self._waiting or self._answers):
                self._now = max(self._now, self._end, self._coming[0].at)
            self._take()
            self._govern()
            self._step()
        self._told.seconds = self._now
        self._told.served = [session.served for session in self._sessions]
        self._told.late = [session.late for session in self._sessions]
        self._told.thinned = [session.thinned for session in self._sessions]
        return self._told

    def _take(self) -> None:
        while self._coming and self._coming[0].at <= self._now:
            at, kind, number = self._coming.popleft()
            if kind == "question":
                length = self._chance.choice(self._lengths)
                self._answers.append(_Answer(number, at, self._load.prompt, length))
            elif self._admits(at, number):
                self._sessions[number].frames.append(at)
                self._waiting[number] = None
        for number in [n for n in self._waiting if self._sessions[n].frames[0] + self._load.lag < self._now]:
            self._drop_late(number)

    def _admits(self, at: float, number: int) -> bool:
        """Whether a frame is taken, as the engine does."""
        if self._governor is None:
            return True
        self._governor.offered(str(number))
        session = self._sessions[number]
        admitted = session.thinning.admits(int(at * 1000))
        session.thinned += not admitted
        return admitted

    def _govern(self) -> None:
        if self._governor is not None:
            for name, rate in self._governor.review(self._now, self._governed).items():
                self._sessions[int(name)].thinning.rate = rate

    def _drop_late(self, number: int) -> None:
        session = self._sessions[number]
        while session.frames and session.frames[0] + self._load.lag < self._now:
            session.frames.popleft()
            session.late, session.encoded = session.late + 1, False
            if self._governor is not None:
                self._governor.late(1)
        if not session.frames:
            del self._waiting[number]

    def _step(self) -> None:
        running = [answer for answer in self._answers if not answer.unread]
        prompts = [answer for answer in self._answers if answer.unread]
        queued = list(self._waiting)
        frames = [self._upcoming(self._sessions[n]) for n in queued]
        began = time.perf_counter()
        readings = [Reading(answer.sent, answer.first) for answer in running]
        step = plan(self._limits, readings, [Prompt(answer.unread) for answer in prompts], frames, self._now)
        self._told.planning += time.perf_counter() - began
        written = [queued[place] for place in step.frames]
        self._turns.took([self._sessions[n] for n in written])
        counts = self._counts(step, running, prompts, written)
        seconds = self._costs.seconds(counts) * self._chance.choice(self._costs.spread)
        if counts == StepCounts():
            self._now += seconds
            return
        for place in step.encode:
            self._sessions[queued[place]].encoded = True
        begun, end = self._under_way(counts, seconds)
        self._told.steps.append((counts, end - begun))
        self._write(written, end)
        going = [answer for answer, goes in zip(running, step.answers, strict=True) if goes]
        self._say(going, prompts, step.prompts, end)

    def _upcoming(self, session: _Session) -> Upcoming:
        load = self._load
        return Upcoming(load.tokens, session.frames[0] + load.lag, session.encoded, True, self._turns.of(session))

    def _under_way(self, counts: StepCounts, seconds: float) -> tuple[float, float]:
        """When a step that is planned now is begun and done; moves the clock to when the next one can be planned."""
        if self._host is None:
            begun, self._now = self._now, self._now + seconds
            return begun, self._now
        launched, before = self._now + self._host.seconds(counts), self._end
        begun = max(before, self._now)
        self._end = max(launched, begun + seconds)
        self._now = max(launched, before)
        return begun, self._end

    def _counts(
        self, step: StepPlan, running: Sequence[_Answer], prompts: Sequence[_Answer], written: Sequence[int]
    ) -> StepCounts:
        going = [answer for answer, goes in zip(running, step.answers, strict=True) if goes]
        pieces = [(answer, piece) for answer, piece in zip(prompts, step.prompts, strict=True) if piece]
        tokens = len(going) + sum(piece for _, piece in pieces) + len(written) * self._load.tokens
        pairs = sum(piece * self._sessions[answer.session].keys for answer, piece in pieces)
        pairs += sum(self._load.tokens * self._sessions[n].keys for n in written)
        return StepCounts(
            passes=int(bool(tokens)),
            answers=len(going),
            tokens=tokens,
            pairs=pairs / 1000,
            batches=int(bool(step.encode)),
            pictures=len(step.encode),
            short=max(0, FILLING - tokens) if tokens else 0,
            keys=sum(self._sessions[answer.session].keys for answer in going) / 1000,
        )

    def _write(self, written: Sequence[int], end: float) -> None:
        for number in written:
            session = self._sessions[number]
            self._told.frame_age.append(end - session.frames.popleft())
            session.keys = min(self._load.keys, session.keys + self._load.tokens)
            session.served, session.encoded = session.served + 1, False
            if not session.frames:
                del self._waiting[number]

    def _say(self, going: Sequence[_Answer], prompts: Sequence[_Answer], pieces: Sequence[int], end: float) -> None:
        """A prompt's last piece brings the first token."""
        spoken = list(going)
        for answer, piece in zip(prompts, pieces, strict=True):
            answer.unread -= piece
            if not answer.unread and piece:
                self._told.first_token.append(end - answer.asked)
                answer.first = answer.last = end
                spoken.append(answer)
        for answer in spoken:
            if answer.sent > 1 or (answer.sent and answer.first):
                self._told.between.append(end - answer.last)
            answer.sent, answer.last, answer.left = answer.sent + 1, end, answer.left - 1
        self._answers = [answer for answer in self._answers if answer.left > 0]
