"""Live streams into an engine in this process: cameras that have always taken the next picture."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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

Pixels = NDArray[np.uint8]
_FAR = 1e12
_PICTURES = 256


class Streams:
    """An engine and its sessions. Pictures wait as JPEG and are decoded by a few threads, ahead of their turn."""

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings, threads: int = 4) -> None:
        self.side = checkpoint.pixels.side
        self.taken: list[float] = []
        self.told: dict[str, list[float]] = {}
        self.done: set[str] = set()
        self._pixels: dict[int, Pixels] = {}
        self._threads = ThreadPoolExecutor(threads)
        self._jpegs = list(self._threads.map(lambda seed: _jpeg(seed, self.side), range(_PICTURES)))
        self._coming: deque[tuple[int, Future[Pixels]]] = deque()
        self._slot = self._turn = 0
        self._clocks: dict[str, int] = {}
        self.engine = Engine(checkpoint, settings, lambda frame: self._pixels[frame.slot], self._hear)
        self.engine.warm()

    def open(self, name: str, budget_tokens: int, policy: str = "window") -> None:
        opening = OpenSession(
            session_id=name, budget_tokens=budget_tokens, policy=policy, instructions=INSTRUCTIONS, complete=True
        )
        self.engine.handle(opening)
        self._clocks[name] = 0

    def close(self) -> None:
        for name in list(self._clocks):
            self.engine.handle(CloseSession(session_id=name))
        self._clocks.clear()
        self._threads.shutdown(cancel_futures=True)

    def push(self, name: str) -> None:
        """The session's next picture, a second after the last."""
        slot, pixels = self._picture()
        self._pixels[slot] = pixels
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
            )
        )

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

    def run(self, until: Callable[[], bool], feed: Callable[[], None] = lambda: None) -> None:
        """Steps until `until`; `feed` is called before each."""
        while not until():
            feed()
            self.engine.step()

    def fill(self, frames: int) -> None:
        """So many pictures into every session."""
        before = len(self.taken)
        for _ in range(frames):
            for name in self._clocks:
                self.push(name)
        self.run(lambda: len(self.taken) - before >= frames * len(self._clocks))

    def top_up(self, ahead: int) -> None:
        """Pictures for the sessions in turn until so many wait in the engine."""
        for _ in range(ahead - sum(len(session.frames) for session in self.engine.sessions.values())):
            self._push_next()

    def cameras(self, rate: float) -> Callable[[], None]:
        """Brings, when called, the pictures that have come since: `rate` a second, for the sessions in turn."""
        started, pushed = time.perf_counter(), 0

        def bring() -> None:
            nonlocal pushed
            while pushed < rate * (time.perf_counter() - started):
                self._push_next()
                pushed += 1

        return bring

    def _push_next(self) -> None:
        names = list(self._clocks)
        self.push(names[self._turn % len(names)])
        self._turn += 1

    def _picture(self) -> tuple[int, Pixels]:
        while len(self._coming) < 64:
            jpeg = self._jpegs[self._slot % _PICTURES]
            self._coming.append((self._slot, self._threads.submit(_decoded, jpeg, self.side)))
            self._slot += 1
        slot, coming = self._coming.popleft()
        return slot, coming.result()

    def _hear(self, event: Event) -> None:
        if isinstance(event, FrameTaken):
            del self._pixels[event.slot]
            if event.outcome == "prefilled":
                self.taken.append(time.perf_counter())
            elif event.outcome != "dropped_closed":
                raise RuntimeError(f"a picture was not taken in: {event.outcome}")
        elif isinstance(event, Tokens):
            self.told[event.question_id].append(time.perf_counter())
        elif isinstance(event, QuestionDone):
            self.done.add(event.question_id)


def _jpeg(seed: int, side: int) -> bytes:
    """Coarse blocks under fine noise: no two alike."""
    chance = np.random.default_rng(seed)
    coarse = np.kron(chance.integers(0, 256, (8, 8, 3), np.uint8), np.ones((side // 8, side // 8, 1), np.uint8))
    picture = coarse // 2 + chance.integers(0, 32, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _decoded(jpeg: bytes, side: int) -> Pixels:
    pixels = np.empty((side, side, 3), np.uint8)
    decode(jpeg, pixels)
    return pixels
