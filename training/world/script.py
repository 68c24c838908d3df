"""A video as a script: who is on, when, where and how. Exact at any time: pictures and truth share one source."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import Thing

SIDE = 224
CELL = SIDE / 3
Floats = NDArray[np.float64]

Style = Literal["pop", "fade", "grow", "slide"]
Deed = Literal["came", "left", "replaced", "recoloured", "grew", "moved", "cut"]


@dataclass(slots=True)
class Actor:
    """One thing on its way through the picture.

    It begins to appear at `enters[0]` and is there in full from `enters[1]`; it begins to go at `leaves[0]` and is gone
    at `leaves[1]` (seconds). Its centre follows the corner points of `path` (times, across, down), in pixels of 224.
    """

    thing: Thing
    size: float
    path: tuple[list[float], list[float], list[float]]
    enters: tuple[float, float]
    leaves: tuple[float, float] = (math.inf, math.inf)
    arrival: Style = "pop"
    departure: Style = "pop"
    depth: float = 0.0
    tilt: float = 0.0
    colours: list[tuple[float, str]] = field(default_factory=list)
    growth: tuple[float, float] | None = None
    blinks: list[float] = field(default_factory=list)
    group: int | None = None
    cell: int | None = None
    followed: "Actor | None" = None

    def present(self, start: float, end: float) -> bool:
        """Whether it is there in full all through [start, end]."""
        return self.enters[1] <= start and end <= self.leaves[0]

    def absent(self, start: float, end: float) -> bool:
        """Whether nothing of it is there at any time of [start, end]."""
        return self.enters[0] >= end or self.leaves[1] <= start

    def colour(self, time: float) -> str | None:
        """The name of its colour at `time`; None for things that are not coloured shapes."""
        worn = [colour for since, colour in self.colours if since <= time]
        return worn[-1] if worn else None

    def centre(self, times: Floats) -> tuple[Floats, Floats]:
        """Its centre, across and down, at each of `times`."""
        points, across, down = self.path
        return np.interp(times, points, across), np.interp(times, points, down)

    def opacity(self, times: Floats) -> Floats:
        """How much it covers what is behind it, 0 to 1."""
        seen = ((times >= self.enters[0]) & (times < self.leaves[1])).astype(float)
        if self.arrival == "fade":
            seen *= np.clip(_progress(times, self.enters), 0.0, 1.0)
        if self.departure == "fade":
            seen *= np.clip(1.0 - _progress(times, self.leaves), 0.0, 1.0)
        for blink in self.blinks:
            seen *= (times < blink) | (times > blink + BLINK)
        return seen

    def extent(self, times: Floats) -> Floats:
        """Its width in pixels."""
        size = np.full_like(times, self.size)
        if self.growth is not None:
            size *= 1.0 + (self.growth[1] - 1.0) * np.clip((times - self.growth[0]) / GROWTH, 0.0, 1.0)
        if self.arrival == "grow":
            size *= np.clip(_progress(times, self.enters), 0.02, 1.0)
        if self.departure == "grow":
            size *= np.clip(1.0 - _progress(times, self.leaves), 0.02, 1.0)
        return size


BLINK = 0.45
GROWTH = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed: what was done, by whom, from when to when (seconds)."""

    deed: Deed
    start: float
    end: float
    actor: Actor | None = None


@dataclass(frozen=True, slots=True)
class Camera:
    """How the scene is looked at: shake and drift in pixels, light as a slow swing around a gain, sensor noise."""

    shake: float
    drift: tuple[float, float]
    gain: float
    swing: float
    phase: float
    noise: float

    def offset(self, times: Floats) -> tuple[Floats, Floats]:
        """Where the picture's contents are moved to, across and down, at each of `times`."""
        jerk = self.shake * np.sin(np.outer((5.1, 6.7), times) * 2.3 + self.phase)
        sway = np.sin(times * 0.21 + self.phase)
        return jerk[0] + self.drift[0] * sway, jerk[1] + self.drift[1] * sway

    def light(self, times: Floats) -> Floats:
        """The factor on the picture's brightness at each of `times`."""
        return self.gain * (1.0 + self.swing * np.sin(times * 0.37 + self.phase))


@dataclass(frozen=True, slots=True)
class Script:
    """A whole video. `grounds` are (since, background) pairs, the first at 0; `events` are in order of time."""

    seed: int
    seconds: float
    actors: tuple[Actor, ...]
    events: tuple[Event, ...]
    grounds: tuple[tuple[float, int], ...]
    camera: Camera

    def ground(self, times: Floats) -> NDArray[np.int64]:
        """The background's number at each of `times`."""
        starts = np.array([since for since, _ in self.grounds])
        numbers = np.array([number for _, number in self.grounds])
        return numbers[np.searchsorted(starts, times, side="right") - 1].astype(np.int64)


def _progress(times: Floats, span: tuple[float, float]) -> Floats:
    return (times - span[0]) / max(span[1] - span[0], 1e-6)
