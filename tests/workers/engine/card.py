"""A card that computes nothing and takes the time of one, on a clock of its own: an engine's steps without a GPU."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bench.random_model import TINY, random_checkpoint
from workers.engine.batch import Work
from workers.engine.costs import StepCounts
from workers.engine.device import Device
from workers.engine.engine import Engine
from workers.engine.messages import PushFrame
from workers.models.checkpoint import Checkpoint
from workers.perception.glimpses import Change
from workers.perception.vision import Features

SIDE, FRAME = 448, 256
HOST = 4e-3  # seconds to plan and launch a pass
Seconds = Callable[[StepCounts], float]


def imagined(side: int = SIDE) -> Checkpoint:
    """A model so small that a step of many frames takes milliseconds; one layer, so that its memory is small too."""
    text = replace(TINY.text, layers=1, kv_heads=1, head_dim=8, mrope_section=(2, 1, 1))
    return random_checkpoint("cpu", torch.float32, replace(TINY, text=text), side)


class Idle(Device):
    """Every picture looks the same to it, and it has one word for all that is asked."""

    def run(self, works: Sequence[Work]) -> Tensor:
        logits = torch.zeros(sum(work.wanted for work in works), self.runner._decoder.config.vocab_size)
        logits[:, 200] = 1.0
        return logits

    def encode(self, frames: Sequence[PushFrame], changes: Sequence[Change | None] | None = None) -> list[Features]:
        across = math.isqrt(self.eye.tokens)
        return [Features(torch.zeros(across**2, 64), across, across) for _ in frames]


def h100(counts: StepCounts) -> float:
    """As measured with the 7B shape: pictures 3.9, 3.2, 3.1 and 3.0 ms each in batches of 1, 2, 4 and 8; a frame 6.2 ms
    in large passes and 28 % more alone, of which attention to 4.4 thousand keys is 1.0; 6.3, 9.2 and 12 ms for the
    next tokens of 1, 32 and 64 answers.
    """
    vision = float(np.interp(counts.pictures, (0, 1, 2, 4, 8, 16), (0, 3.9, 6.4, 12.4, 24.0, 48.0)))
    if not counts.passes:
        return 1e-3 * vision
    reading, multiplying = 6.2 * counts.passes, 0.02 * counts.tokens
    matrices: float = (reading**3.7 + multiplying**3.7) ** (1 / 3.7)
    return 1e-3 * (vision + matrices + 0.00087 * counts.pairs + 0.0208 * counts.keys)


def tiny(counts: StepCounts) -> float:
    """As with a model so small that everything is the host's time."""
    return 1e-3 * (1.5 * counts.passes + 0.4 * counts.batches + 0.03 * counts.answers + 0.01 * counts.pictures)


@dataclass(slots=True)
class Noise:
    """Steps take up to `off` more or less, and one in `rare` half as long again, or up to three times."""

    chance: random.Random
    off: float = 0.05
    rare: int = 20

    def __call__(self) -> float:
        late = self.chance.uniform(1.5, 3) if self.chance.randrange(self.rare) == 0 else 1.0
        return late * self.chance.uniform(1 - self.off, 1 + self.off)


class Clock:
    """The time of an engine's steps, on a device that goes on while the host plans the next: `now` is the host's."""

    def __init__(self, engine: Engine, device: Seconds, host: Seconds, noise: Callable[[], float], ahead: bool) -> None:
        self.now = self.ends = 0.0
        self._engine, self._step, self._ahead = engine, engine.step, ahead
        self._device, self._host, self._noise = device, host, noise

    def step(self) -> bool:
        """The engine's step; it returns when the device has ended the one before, or, if not `ahead`, this one."""
        before = replace(self._engine.counters)
        busy, counts = self._step(), self._engine.counters.since(before)
        if counts == StepCounts():
            self.now = max(self.now, self.ends) if busy else self.now
            return busy
        launched, last = self.now + self._host(counts), self.ends
        self.ends = max(launched, max(last, self.now) + self._device(counts) * self._noise())
        self.now = max(launched, last) if self._ahead else self.ends
        return busy

    def done(self) -> None:
        self.now = max(self.now, self.ends)
