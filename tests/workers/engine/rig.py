"""An engine driven by hand: in the test's own process, on a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from workers.core import indexed
from workers.engine.engine import Engine
from workers.engine.messages import AskQuestion, Event, FrameTaken, OpenSession, PushFrame, QuestionDone, Tokens
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint

E = TypeVar("E")

FAR = 1e9


@dataclass
class Rig:
    """Drives one engine and keeps what it said."""

    checkpoint: Checkpoint
    settings: EngineSettings
    make: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    now: float = 0.0
    pushed: int = 0

    def __post_init__(self) -> None:
        self.pictures: dict[int, NDArray[np.uint8]] = {}
        self.engine = Engine(
            self.checkpoint,
            self.settings,
            lambda frame: self.pictures[frame.slot],
            self.events.append,
            now=lambda: self.now,
            **self.make,
        )

    def open(self, session_id: str = "s", **changes: Any) -> None:
        values = {"budget_tokens": 512, "policy": "window", "instructions": "You are watching a live video."}
        self.engine.handle(OpenSession(session_id=session_id, **{**values, "complete": False, **changes}))

    def push(
        self,
        t_ms: int,
        session_id: str = "s",
        *,
        seed: int | None = None,
        shown: NDArray[np.uint8] | None = None,
        **changes: Any,
    ) -> None:
        """A picture: `shown`, or drawn from `seed` (default: its time)."""
        self.pushed += 1
        self.pictures[self.pushed] = picture(t_ms if seed is None else seed) if shown is None else shown
        values = {"sequence": self.pushed, "slot": self.pushed, "width": 112, "height": 112, "deadline": FAR}
        self.engine.handle(PushFrame(session_id=session_id, t_ms=t_ms, **{**values, **changes}))

    def ask(self, question_id: str = "q", session_id: str = "s", **changes: Any) -> None:
        values = {"text": "What is on the table now?", "at_ms": 0, "wait_until": FAR, "max_tokens": 8}
        self.engine.handle(AskQuestion(session_id=session_id, question_id=question_id, **{**values, **changes}))

    def run(self, steps: int = 10_000, *, check: bool = True) -> int:
        """Steps until there is nothing to do, checking the books after each."""
        for done in range(steps):
            if not self.engine.step():
                return done
            if check:
                self.check()
        return steps

    def check(self) -> None:
        self.engine.pool.check_integrity()
        for session in self.engine.sessions.values():
            session.check_integrity()

    def said(self, kind: type[E], **fields: Any) -> list[E]:
        """Events of a kind whose fields are as given."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def answer(self, question_id: str = "q") -> list[int]:
        return [token for event in self.said(Tokens, question_id=question_id) for token in event.token_ids]

    def done(self, question_id: str = "q") -> QuestionDone:
        (event,) = self.said(QuestionDone, question_id=question_id)
        return event

    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.said(FrameTaken)]


def session(r: Rig, **question: Any) -> list[list[int]]:
    """Four sessions of six frames, more than their memory holds, with questions of both kinds in between."""
    names = ["a", "b", "c", "d"]
    for name in names:
        r.open(name, budget_tokens=256)
    for n in range(12):
        for place, name in enumerate(names):
            r.push(n * 1000, name, seed=10 * n + place)
        if n in (4, 9):
            for place, name in enumerate(names):
                mode = "live" if place % 2 else "frozen"
                r.ask(f"{name}{n}", name, at_ms=n * 1000, mode=mode, max_tokens=12, **question)
        r.run(steps=3)
    r.run()
    return [r.answer(f"{name}{n}") for name in names for n in (4, 9)]


def pages(r: Rig) -> list[NDArray[np.float32]]:
    """Keys and values in use, session by session."""
    store, used = r.engine.pool.store, []
    for each in r.engine.sessions.values():
        slots = np.concatenate([part.slots[0, 0] for part in each.trunk.parts()])
        planes = (indexed(each)[:, :, slots].view(each.dtype) for each in (store.keys, store.values))
        used += [each.float().cpu().numpy() for each in planes]
    return used


def picture(seed: int, side: int = 112) -> NDArray[np.uint8]:
    """Coarse random blocks, so that pictures differ in what a model can see."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 8, side // 8, 1), dtype=np.uint8))
