"""From script to renderer: the layers of each picture as plain arrays, back to front."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import COLOURS
from training.world.script import SIDE, Floats, Script

LAYERS = 12
FIELDS = ("texture", "x", "y", "width", "tilt", "opacity", "red", "green", "blue", "actor", "colour")
_WHITE = (255, 255, 255)
_COLOUR_NUMBERS = {name: number for number, name in enumerate(COLOURS)}


@dataclass(frozen=True, slots=True)
class Cast:
    """What the renderer needs of N pictures.

    `layers` float32 [N, 12, 11] (see FIELDS; texture -1 where there is none, colour -1 for what wears none), `ground`
    int64 [N], `views` float32 [N, 4]: the background's shift across and down, the light, the noise.
    """

    layers: NDArray[np.float32]
    ground: NDArray[np.int64]
    views: NDArray[np.float32]


def cast(script: Script, times: Floats) -> Cast:
    """The layers of the pictures of `script` at `times` (seconds)."""
    shift_x, shift_y = script.camera.offset(times)
    layers = np.zeros((len(times), LAYERS, len(FIELDS)), dtype=np.float32)
    layers[:, :, 0] = layers[:, :, 9] = layers[:, :, 10] = -1
    filled = np.zeros(len(times), dtype=np.int64)
    for number in sorted(range(len(script.actors)), key=lambda n: script.actors[n].depth):
        actor = script.actors[number]
        low, high = np.searchsorted(times, (actor.enters[0], actor.leaves[1]))
        if low == high:
            continue
        on = times[low:high]
        x, y = actor.centre(on)
        width, opacity = actor.extent(on), actor.opacity(on)
        x, y = x + shift_x[low:high], y + shift_y[low:high]
        reach = width / 2
        seen = (opacity > 0.02) & (x > -reach) & (x < SIDE + reach) & (y > -reach) & (y < SIDE + reach)
        rows = low + np.flatnonzero(seen & (filled[low:high] < LAYERS))
        if not len(rows):
            continue
        picked = rows - low
        layer = layers[rows, filled[rows]]
        layer[:, 0], layer[:, 4], layer[:, 9] = actor.thing.number, actor.tilt, number
        layer[:, 1], layer[:, 2], layer[:, 3], layer[:, 5] = x[picked], y[picked], width[picked], opacity[picked]
        layer[:, 6:9] = np.array(_WHITE, dtype=np.float32) / 255
        for since, colour in actor.colours:
            worn = on[picked] >= since
            layer[worn, 6:9] = np.array(COLOURS[colour], dtype=np.float32) / 255
            layer[worn, 10] = _COLOUR_NUMBERS[colour]
        layers[rows, filled[rows]] = layer
        filled[rows] += 1
    light = script.camera.light(times)
    views = np.stack([shift_x, shift_y, light, np.full_like(light, script.camera.noise)], axis=1)
    return Cast(layers, script.ground(times), views.astype(np.float32))
