"""Live streams into an engine in this process: cameras that have always taken the next picture."""

from __future__ import annotations

import gc
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import NamedTuple

import numpy as np

from bench.camera import Album, Pixels
from workers.engine.engine import Engine
from workers.engine.messages import (
    AskQuestion,
    CloseSession,
    Event,
    FrameTaken,
    OpenSession,
    PushFrame,
    QuestionDone,
    Tokens,
)
from workers.engine.settings import EngineSettings
from workers.models.chat import INSTRUCTIONS
from workers.models.checkpoint import Checkpoint
from workers.pictures import decode

_FAR = 1e12
_AHEAD = 64  # pictures that are decoded before their turn


class Decoded(NamedTuple):
    """A picture, and what is told of its look."""

    pixels: Pixels
    look: bytes


class Streams:
    """An engine and its sessions, each with a camera. Pictures are JPEG bytes in memory, and are decoded by a few
    threads, ahead of their turn. Sessions come in an order that is drawn anew each round.
    """

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings, album: Album, threads: int = 4) -> None:
        self.side, self._album = album.view.side, album
        self.taken: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.told: dict[str, list[float]] = {}
        self.done: set[str] = set()
        self.answered = 0
        self._pixels: dict[int, Pixels] = {}
        self._threads = ThreadPoolExecutor(threads)
        self._coming: deque[tuple[str, Future[Decoded]]] = deque()
        self._cameras: dict[str, int] = {}
        self._shown: Counter[str] = Counter()
        self._clocks: dict[str, int] = {}
        self._slot, self._chance = 0, Random(0)
        self.engine = Engine(checkpoint, settings, lambda frame: self._pixels[frame.slot], self._hear)
        self.engine.warm()
        gc.collect()
        gc.freeze()  # as the engine's own process does

    def open(self, name: str, budget_tokens: int, policy: str = "window", camera: int | None = None) -> None:
        """A session with a camera of its own, or with what a `camera` shows from its beginning on."""
        opening = OpenSession(
            session_id=name, budget_tokens=budget_tokens, policy=policy, instructions=INSTRUCTIONS, complete=True
        )
        self.engine.handle(opening)
        self._clocks[name] = 0
        self._cameras[name] = len(self._cameras) if camera is None else camera

    def leave(self, name: str) -> None:
        """Closes a session that was not filled together with others."""
        self.engine.handle(CloseSession(session_id=name))
        del self._clocks[name]

    def close(self) -> None:
        for name in list(self._clocks):
            self.leave(name)
        self._threads.shutdown(cancel_futures=True)
        gc.unfreeze()

    def age(self, name: str) -> float:
        """Seconds of its time that a session has been shown."""
        return self._clocks[name] / 1000

    def push(self, name: str) -> None:
        """The session's next picture, a second after the last, decoded here and now."""
        self._push(name, _decoded(self._next_jpeg(name), self.side))

    def take(self, name: str) -> None:
        """The session's next picture, until the engine says that it is in memory."""
        before = len(self.taken)
        self.push(name)
        self.run(lambda: len(self.taken) > before)

    def ask(self, name: str, question_id: str, max_tokens: int) -> None:
        """A question about now, answered on the memory as it is."""
        question = AskQuestion(
            session_id=name,
            question_id=question_id,
            text="What is on the table now?",
            at_ms=0,
            wait_until=0.0,
            remember=False,
            max_tokens=max_tokens,
        )
        self.told[question_id] = []
        self.engine.handle(question)

    @property
    def idle(self) -> bool:
        """Whether every question has its answer."""
        return len(self.told) == len(self.done)

    def forget(self) -> None:
        """Lets go of the times of pictures, and of answers that have ended; `answered` goes on counting those."""
        self.taken.clear()
        self.answered += len(self.done)
        for question_id in self.done:
            del self.told[question_id]
        self.done.clear()

    def run(self, until: Callable[[], bool], feed: Callable[[], None] = lambda: None) -> None:
        """Steps until `until`; `feed` is called before each."""
        while not until():
            feed()
            self.engine.step()

    def fill(self, frames: int) -> None:
        """So many pictures into every session."""
        before, wanted = len(self.taken), frames * len(self._clocks)
        for _ in range(wanted):
            self._push_next()
        self.run(lambda: len(self.taken) - before >= wanted)

    def top_up(self, ahead: int) -> None:
        """Pictures for the sessions in turn until so many wait in the engine."""
        for _ in range(ahead - sum(len(session.frames) for session in self.engine.sessions.values())):
            self._push_next()

    def _push_next(self) -> None:
        while len(self._coming) < _AHEAD:
            for name in self._chance.sample(list(self._clocks), len(self._clocks)):
                decoding = self._threads.submit(_decoded, self._next_jpeg(name), self.side)
                self._coming.append((name, decoding))
        name, decoding = self._coming.popleft()
        self._push(name, decoding.result())

    def _push(self, name: str, decoded: Decoded) -> None:
        slot, self._slot = self._slot, self._slot + 1
        self._pixels[slot] = decoded.pixels
        self._clocks[name] += 1000
        self.engine.handle(
            PushFrame(
                session_id=name,
                sequence=slot,
                t_ms=self._clocks[name],
                slot=slot,
                width=self.side,
                height=self.side,
                deadline=_FAR,
                look=decoded.look,
            )
        )

    def _next_jpeg(self, name: str) -> bytes:
        number = self._shown[name]
        self._shown[name] += 1
        return self._album.jpeg(self._cameras[name], number)

    def _hear(self, event: Event) -> None:
        if isinstance(event, FrameTaken):
            del self._pixels[event.slot]
            self.outcomes[event.outcome] += 1
            if event.outcome in ("prefilled", "dropped_similar"):
                self.taken.append(time.perf_counter())
            elif event.outcome != "dropped_closed":
                raise RuntimeError(f"a picture was not taken in: {event.outcome}")
        elif isinstance(event, Tokens):
            self.told[event.question_id].append(time.perf_counter())
        elif isinstance(event, QuestionDone):
            self.done.add(event.question_id)


def _decoded(jpeg: bytes, side: int) -> Decoded:
    pixels = np.empty((side, side, 3), np.uint8)
    return Decoded(pixels, decode(jpeg, pixels))
