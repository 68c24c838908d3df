"""What goes wrong and when: drawn from a seed before anything runs, so that a run can be had again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

TICK_S = 0.25
Kind = Literal["bus", "worker", "gateway", "poison", "stop"]
Poison = Literal["picture", "decoder", "engine"]
CHANCES: tuple[tuple[Kind, float], ...] = (
    ("bus", 0.02),
    ("worker", 0.08),
    ("gateway", 0.03),
    ("poison", 0.05),
    ("stop", 0.05),
)
POISONS: tuple[Poison, ...] = ("picture", "decoder", "engine")


@dataclass(frozen=True)
class Fault:
    """``choice`` in [0, 1) says which of those that there are then is hit; ``poison`` matters to poison alone.

    A poisoned picture cannot be decoded. Since no picture is known that brings a decoder or an engine down, these two
    are killed at the moment as such a picture would kill them.
    """

    at_s: float
    kind: Kind
    choice: float
    poison: Poison

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} {self.kind}" + (f" ({self.poison})" if self.kind == "poison" else "")


def schedule(seed: int, seconds: float) -> list[Fault]:
    """At most one fault each ``TICK_S``, in order."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    for tick in range(int(seconds / TICK_S)):
        draw, choice, poison = chance.random(), chance.random(), chance.choice(POISONS)
        for kind, share in CHANCES:
            if draw < share:
                faults.append(Fault(tick * TICK_S, kind, choice, poison))
                break
            draw -= share
    return faults
