"""Measures at start what steps cost on this machine, and fits the limits of a step to a time between tokens."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from workers.core import Fence
from workers.engine.costs import StepCounts, fitted
from workers.engine.device import Device
from workers.engine.engine import Engine, MakeDevice
from workers.engine.messages import AskQuestion, OpenSession, PushFrame
from workers.engine.scheduler import StepLimits
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint
from workers.perception.vision import Picture

SESSIONS = 8
ROUNDS = 4
IN_A_ROW = 6  # steps alike: where the host is ahead, those between others like them are told apart from these
ANSWERS = 8  # that may run at once without a step taking longer than it should
_UNTIL_AHEAD = 3  # steps of a row: of the second, the host may be launching when the device has ended the first
_FAR = 1e12
_MOST_TOKENS, _MOST_PICTURES = 4_096, 24
_SPOKEN = 64  # tokens that an answer has room for
_QUESTION = "Tell at length what is to be seen, and all that has changed since the beginning."

log = logging.getLogger(__name__)

Clock = Callable[[], float]


class Block(NamedTuple):
    """Steps that are measured while so many `answers` run: with so many frames `seen` and written in the same step,
    and with so many `written` that others have encoded.
    """

    answers: int
    seen: tuple[int, ...]
    written: tuple[int, ...] = ()


_BLOCKS = (
    Block(0, (1, 2, SESSIONS // 2, SESSIONS), (1, 3)),
    Block(1, (1,)),
    Block(ANSWERS, (1, SESSIONS // 2), (2,)),
    Block(4 * SESSIONS, (SESSIONS // 2,)),
)


class Calibration:
    """An engine of its own on the served model, made to do steps of all kinds.

    `clock` counts seconds. Where the host is a step `ahead` of the device (None: on a GPU), as it is when serving, a
    step takes what lies between its predecessor's end and its own. The engine's pool is freed with it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: EngineSettings,
        clock: Clock = time.perf_counter,
        make_device: MakeDevice = Device,
        ahead: bool | None = None,
    ) -> None:
        budget = min(settings.default_budget, settings.pool_tokens // SESSIONS)
        roomy = replace(
            settings,
            pool_tokens=SESSIONS * budget + settings.page_size,  # graphs take a page
            step_tokens=max(settings.step_tokens, _MOST_TOKENS),
            step_pictures=max(settings.step_pictures, _MOST_PICTURES),
            drop_threshold=0,
            frame_seconds=0.0,
        )
        self._engine = Engine(
            checkpoint,
            roomy,
            self._picture,
            lambda event: None,
            now=lambda: 0.0,
            make_device=make_device,
            ahead=ahead,
        )
        self._ahead = self._engine.pool.store.keys.is_cuda if ahead is None else ahead
        self._clock, self._pushed, self._asked = clock, 0, 0
        self._last, self._returned = StepCounts(), 0.0
        self._kind, self._like = "", 0  # of how many steps alike the last was one
        self.launches: list[tuple[StepCounts, float]] = []
        """Steps that found the device idle, and the seconds that planning and launching them took the host."""
        card = self._engine.ready.card
        chance = np.random.default_rng(0)
        self._pictures = chance.integers(0, 256, (SESSIONS, card.frame_height, card.frame_width, 3), dtype=np.uint8)
        self.frame_tokens = card.tokens_per_frame
        self._size = card.frame_width, card.frame_height
        self._aside = budget // 2 // 4
        for n in range(SESSIONS):
            opening = OpenSession(
                session_id=str(n),
                budget_tokens=budget // 2 if n % 2 else 3 * budget // 2,
                policy="window",
                instructions="",
                complete=True,
            )
            self._engine.handle(opening)
        self._settle()

    def steps(self, rounds: int = ROUNDS) -> list[tuple[StepCounts, float]]:
        """Steps with from none to all of the sessions' frames, some answers or many, and the seconds that each took.

        Of several rounds the first only warms everything up. What each session has beside its memory bounds how many
        answers it is asked for.
        """
        measured: list[tuple[StepCounts, float]] = []
        several = max(1, self._aside // _SPOKEN) * SESSIONS // 2
        with _no_collections():
            for turn in range(rounds):
                if turn == 1:
                    measured.clear()
                    self.launches.clear()
                for block in _BLOCKS:
                    measured += self._block(block, min(block.answers, several), turn)
        return measured

    def _block(self, block: Block, answers: int, turn: int) -> list[tuple[StepCounts, float]]:
        """All steps of a block, while so many answers run."""
        row, steps = IN_A_ROW if self._ahead else 2, []
        if answers:
            self._speak(answers, turn)
            steps += self._stepped(2 * row, "answers")
        for shown in block.seen:
            self._speak(answers, turn)
            for _ in range(row):
                self._show(turn, shown)
                steps += self._stepped(1, f"{shown} seen and written")
        for shown in block.written:
            self._speak(answers, turn)
            self._show(turn, shown, row + 1)
            self._stepped(1, f"{shown} seen ahead")
            steps += self._stepped(row, f"{shown} written")
        for session in self._engine.sessions.values():
            for branch in list(session.answers.running):
                session.cancel(branch.question.question_id)
        self._settle()
        return steps

    def _speak(self, answers: int, turn: int) -> None:
        """Has so many answers run: some may have ended by themselves."""
        running = sum(len(session.answers.running) for session in self._engine.sessions.values())
        for n in range(answers - running):
            self._asked += 1
            self._ask(self._one(n % (SESSIONS // 2), turn), str(self._asked))
        self._stepped(3, "questions")

    def _one(self, n: int, turn: int) -> str:
        """One of the sessions: those that remember more come first in even turns, the others in odd ones."""
        return str((2 * n + 2 * (turn // 2) + n // (SESSIONS // 2) + turn) % SESSIONS)

    def _show(self, turn: int, sessions: int, frames: int = 1) -> None:
        for n in range(sessions * frames):
            self._push(self._one(n % sessions, turn))

    def _stepped(self, most: int, kind: str) -> list[tuple[StepCounts, float]]:
        """Steps of a kind. Where the host is ahead, the first is launched on an idle device, and one that lies between
        others takes from its predecessor's end to its own: a step returns when the device has ended the one before.
        """
        steps = []
        for _ in range(most):
            if kind != self._kind:
                self._device_done()
                self._kind, self._like = kind, 0
            before, began = replace(self._engine.counters), self._clock()
            busy, ended = self._engine.step(), self._clock()
            counts = self._engine.counters.since(before)
            if not busy or counts == StepCounts():
                break
            if not self._ahead:
                steps.append((counts, ended - began))
            elif self._like >= _UNTIL_AHEAD:
                steps.append((self._last, ended - self._returned))
            elif not self._like:
                self.launches.append((counts, ended - began))
            self._last, self._like, self._returned = counts, self._like + 1, ended
        return steps

    def _settle(self) -> None:
        while self._engine.step():
            pass

    def _ask(self, session_id: str, question_id: str) -> None:
        self._engine.handle(
            AskQuestion(
                session_id=session_id,
                question_id=question_id,
                text=_QUESTION,
                at_ms=0,
                wait_until=-1.0,
                remember=False,
                max_tokens=10_000,
            )
        )

    def _push(self, session_id: str) -> None:
        width, height = self._size
        self._pushed += 1
        self._engine.handle(
            PushFrame(
                session_id=session_id,
                sequence=self._pushed,
                t_ms=self._pushed * 500,
                slot=0,
                width=width,
                height=height,
                deadline=_FAR,
            )
        )

    def _device_done(self) -> None:
        fence = Fence(self._engine.pool.store.keys.device)
        fence.mark()
        fence.wait()

    def _picture(self, frame: PushFrame) -> Picture:
        picture: Picture = self._pictures[frame.sequence % SESSIONS]
        return picture


@contextmanager
def _no_collections() -> Iterator[None]:
    """Collects no garbage, which means going through all that was loaded; an engine that serves has that frozen."""
    wanted = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def calibrated(
    checkpoint: Checkpoint, settings: EngineSettings, target: float, make_device: MakeDevice = Device
) -> EngineSettings:
    """Settings whose steps take about `target` seconds while some answers run, and that know what a frame costs.

    Those given are what a step may take at most; they stay as they are if no step could be measured.
    """
    calibration = Calibration(checkpoint, settings, make_device=make_device)
    tokens, keys = calibration.frame_tokens, settings.default_budget
    try:
        costs = fitted(calibration.steps())
    except ValueError as error:
        log.warning("the size of steps is as it was set: %s", error)
        return settings
    most = StepLimits(settings.step_tokens, settings.step_pictures, settings.floor_tokens)
    limits = costs.limits(target, tokens, keys, ANSWERS, most)
    return replace(
        settings,
        step_tokens=limits.tokens,
        step_pictures=limits.pictures,
        floor_tokens=limits.floor,
        answer_tokens=limits.answer,
        picture_tokens=limits.picture,
        frame_seconds=costs.full(tokens, keys, limits),
    )
