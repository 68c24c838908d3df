"""What each merged patch of each picture shows, and what it showed before: dense labels that help a model to learn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.cast import Cast
from training.world.catalogue import COLOURS, things
from training.world.script import SIDE, Floats, Script

LANES = 8  # columns and rows of merged patches
NOTHING = len(things())  # class of a patch without an occupant
NO_COLOUR = len(COLOURS)
AGES = (0.5, 1.5, 2.5, 4.5, 7.5, 12.5, 20.5, 31.0)  # limits of the buckets of seconds since a patch last changed hands
HEADINGS = 5  # left, right, up, down, at rest
_MEMORY = 31.0
_FASTER = 6.0  # pixels from one picture to the next that count as moving


@dataclass(frozen=True, slots=True)
class Labels:
    """Int16 [N, 64] each: class, colour and heading of the occupant, class of the one before it, bucket of its age."""

    now: NDArray[np.int16]
    colour: NDArray[np.int16]
    heading: NDArray[np.int16]
    before: NDArray[np.int16]
    age: NDArray[np.int16]


def label(script: Script, shown: Cast, times: Floats, step: float) -> Labels:
    """Labels of the pictures `shown`, taken of `script` at `times`, `step` seconds apart."""
    layer = _occupants(shown.layers)
    filled = layer >= 0
    row = np.arange(len(times))[:, None]
    fields = shown.layers[row, np.maximum(layer, 0)]
    actor = np.where(filled, fields[:, :, 9], -1).astype(np.int64)
    now = np.where(filled, fields[:, :, 0], NOTHING).astype(np.int16)
    colour = np.where(filled & (fields[:, :, 10] >= 0), fields[:, :, 10], NO_COLOUR).astype(np.int16)
    headings = np.array([_headings(script, number, times, step) for number in range(len(script.actors))])
    heading = np.where(filled, headings[np.maximum(actor, 0), row], HEADINGS - 1).astype(np.int16)
    before, age = _history(actor, now, times)
    return Labels(now, colour, heading, before, age)


def _occupants(layers: NDArray[np.float32]) -> NDArray[np.int64]:
    """The frontmost layer that fills each merged patch, -1 where none does: [N, 64] of layers [N, L, fields]."""
    centres = (np.arange(LANES, dtype=np.float32) + 0.5) * (SIDE / LANES)
    texture, x, y, width, opacity = (layers[:, :, field, None] for field in (0, 1, 2, 3, 5))
    reach = np.maximum(width, 1) * 0.45
    across, down = ((centres - x) / reach) ** 2, ((centres - y) / reach) ** 2
    fills = (across[:, :, None, :] + down[:, :, :, None] < 1.0) & ((texture >= 0) & (opacity > 0.4))[..., None]
    fills = fills.reshape(*layers.shape[:2], LANES * LANES)
    last = layers.shape[1] - 1 - np.argmax(fills[:, ::-1], axis=1)
    return np.where(fills.any(axis=1), last, -1)


def _headings(script: Script, number: int, times: Floats, step: float) -> NDArray[np.int64]:
    x, y = script.actors[number].centre(times)
    old_x, old_y = script.actors[number].centre(times - step)
    right, low = x - old_x, y - old_y
    ways = [right < -_FASTER, right > _FASTER, low < -_FASTER, low > _FASTER]
    return np.select(ways, range(HEADINGS - 1), HEADINGS - 1)


def _history(
    actor: NDArray[np.int64], now: NDArray[np.int16], times: Floats
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Class of the last other occupant, forgotten after 31 seconds, and age bucket of the state, [N, 64] each."""
    patches = actor.shape[1]
    holder, held = actor[0].copy(), now[0].copy()  # the last occupant, present or gone
    previous, replaced = np.full(patches, NOTHING, np.int16), np.full(patches, -np.inf)
    since, empty = np.full(patches, -np.inf), actor[0] < 0
    before, age = np.empty_like(now), np.empty_like(now)
    for index, time in enumerate(times):
        new = (actor[index] >= 0) & (actor[index] != holder)
        previous = np.where(new & (holder >= 0), held, previous)
        replaced = np.where(new & (holder >= 0), time, replaced)
        changed = new | (empty != (actor[index] < 0))
        since = np.where(changed, time, since) if index else since
        holder, held = np.where(new, actor[index], holder), np.where(new, now[index], held)
        empty = actor[index] < 0
        gone = np.where(empty, held, previous)
        fresh = time - np.where(empty, since, replaced) < _MEMORY
        before[index] = np.where(fresh, gone, NOTHING)
        age[index] = np.searchsorted(AGES, time - since)
    return before, age
