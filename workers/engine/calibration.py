"""Measures at start what steps cost on this machine, and fits the limits of a step to a time between tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

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
AT_ONCE = 3  # frames that are written in steps of their own, once all of them have been encoded
IN_A_ROW = 4  # steps alike: where the host is ahead, those between others like them are told apart from these
ANSWERS = 8  # that may run at once without a step taking longer than it should
_FAR = 1e12
_MOST_TOKENS = 4_096
_QUESTION = "What is to be seen now, and what has changed since the beginning?"

Clock = Callable[[], float]


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
            step_pictures=max(settings.step_pictures, SESSIONS),
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
        self._clock, self._pushed = clock, 0
        self._last: StepCounts | None = None
        self._flowing, self._kind = False, ""
        self._mark = 0.0
        card = self._engine.ready.card
        chance = np.random.default_rng(0)
        self._pictures = chance.integers(0, 256, (SESSIONS, card.frame_height, card.frame_width, 3), dtype=np.uint8)
        self.frame_tokens = card.tokens_per_frame
        self._size = card.frame_width, card.frame_height
        for n in range(SESSIONS):
            opening = OpenSession(
                session_id=str(n), budget_tokens=budget // (1 + n % 2), policy="window", instructions="", complete=True
            )
            self._engine.handle(opening)
        self._settle()

    def steps(self, rounds: int = ROUNDS) -> list[tuple[StepCounts, float]]:
        """Steps with from none to all of the sessions' frames and answers, and the seconds that each took.

        Of several rounds the first only warms everything up.
        """
        measured: list[tuple[StepCounts, float]] = []
        row = IN_A_ROW if self._ahead else 2
        for turn in range(rounds):
            if turn == 1:
                measured.clear()
            for asked in (0, 1, SESSIONS // 2, SESSIONS):
                for n in range(asked):
                    self._ask(str((n + turn) % SESSIONS), f"{turn}-{asked}-{n}")
                for shown in (0, 1, 2, SESSIONS // 2, SESSIONS):
                    for _ in range(row):
                        self._show(turn, shown)
                        measured += self._stepped(1, f"{shown} seen and written")
                for shown in (1, AT_ONCE):
                    self._show(turn, shown, row + 1)
                    measured += self._stepped(1, f"{shown} seen ahead")
                    measured += self._stepped(row, f"{shown} written")
                measured += self._stepped(40, "answers")
        return measured

    def _show(self, turn: int, sessions: int, frames: int = 1) -> None:
        for n in range(sessions * frames):
            self._push(str((n % sessions + turn) % SESSIONS))

    def _stepped(self, most: int, kind: str) -> list[tuple[StepCounts, float]]:
        """Steps of a kind. Where the host is ahead, a step takes what lies between its return and the next, if both
        wait for the device: planning a larger one than the last keeps the host longer than that.
        """
        steps = []
        for _ in range(most):
            before, began = replace(self._engine.counters), self._clock()
            busy = self._engine.step()
            counts = self._engine.counters.since(before)
            if not counts.passes:
                self._device_done()
            ended = self._clock()
            if not self._ahead:
                steps.append((counts, ended - began))
            elif self._last is not None and (kind == self._kind or not counts.passes):
                steps.append((self._last, ended - self._mark))
            self._last = counts if self._flowing and kind == self._kind else None
            self._flowing, self._kind, self._mark = busy and bool(counts.passes), kind, ended
            if not busy:
                break
        return [(counts, seconds) for counts, seconds in steps if counts.passes or counts.batches]

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
                max_tokens=32,
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


def calibrated(
    checkpoint: Checkpoint, settings: EngineSettings, target: float, make_device: MakeDevice = Device
) -> EngineSettings:
    """Settings whose steps take about `target` seconds while some answers run, and that know what a frame costs.

    Those given are what a step may take at most.
    """
    calibration = Calibration(checkpoint, settings, make_device=make_device)
    costs, tokens, keys = fitted(calibration.steps()), calibration.frame_tokens, settings.default_budget
    most = StepLimits(settings.step_tokens, settings.step_pictures, settings.floor_tokens)
    limits = costs.limits(target, tokens, keys, ANSWERS, most)
    frames = max(1, min(limits.pictures, int(limits.tokens / (tokens + limits.picture))))
    shared = costs.seconds(StepCounts(passes=1, batches=1)) / frames
    return replace(
        settings,
        step_tokens=limits.tokens,
        step_pictures=limits.pictures,
        floor_tokens=limits.floor,
        answer_tokens=limits.answer,
        picture_tokens=limits.picture,
        frame_seconds=costs.frame(tokens, keys) + shared,
    )
