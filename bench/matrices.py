"""What the 7B shape's matrices take in bfloat16 and in eight bits, and what is done between them, one GPU.

    python -m bench.matrices [--json PATH]

Each figure is microseconds a call, in a graph that goes through as many different weights or rows as the cache cannot
hold, the median of a few replays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.random_model import random_checkpoint
from bench.timings import tell, timed
from workers.models.eightbit import ScaledLinear, convert
from workers.models.fusion import gated, gated_scaled, normed, scaled
from workers.perception.vision import Eye

# Inputs and outputs, those of the vision tower as padded; rows of decoder and vision tower.
DECODER = {
    "qkv_proj": (3584, 4608),
    "o_proj": (3584, 3584),
    "gate_up_proj": (3584, 37_888),
    "down_proj": (18_944, 3584),
}
VISION = {"qkv": (1280, 3840), "proj": (1280, 1280), "gate_up_proj": (1280, 6912), "down_proj": (3456, 1280)}
ROWS = (1, 32, 64, 260, 1040, 2080)
VISION_ROWS = (1024, 8192)
HIDDEN, INNER = 3584, 18_944
EPSILON = 1e-6
CACHE_BYTES = 128 << 20
FEWEST, MOST = 4, 28

SUMS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum, then norm": lambda x, more: F.rms_norm(x + more, more.shape[-1:], more[0], EPSILON),
    "sum and norm": lambda x, more: normed(x, more, more[0], EPSILON),
    "sum and norm, scaled": lambda x, more: normed(x, more, more[0], EPSILON, eight=True),
    "scaled": lambda x, more: scaled(x),
}
GATES: dict[str, Callable[[Tensor], object]] = {
    "gates": gated,
    "gates, scaled": gated_scaled,
    "gates, then scaled": lambda gate_up: scaled(gated(gate_up)),
}
Thing = TypeVar("Thing")


def main() -> None:
    tell("python -m bench.matrices", __doc__ or "", chain(products(), between(), whole()))


def products() -> Iterator[tuple[str, float]]:
    """Each matrix over so many rows, in bfloat16 and with rows that are scaled already."""
    for name, sizes in DECODER.items():
        yield from _products(name, sizes, ROWS)
    for name, sizes in VISION.items():
        yield from _products(f"vision {name}", sizes, VISION_ROWS)


def _products(name: str, sizes: tuple[int, int], counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    bias = "vision" in name or name == "qkv_proj"
    layers = _copies(sizes[0] * sizes[1], partial(_linear, *sizes, bias=bias))
    eight = [ScaledLinear(layer) for layer in layers]
    for count in counts:
        rows = _random(count, sizes[0])
        yield f"{name} {count} bfloat16", timed([partial(layer, rows) for layer in layers])
        yield f"{name} {count} fp8", timed([partial(layer, scaled(rows)) for layer in eight])


def between() -> Iterator[tuple[str, float]]:
    """Sum and norm, gates and ups, and scaling alone: apart, in one kernel, and in one kernel that also scales."""
    for count in ROWS:
        pairs = _copies(2 * count * HIDDEN, partial(_random, 2, count, HIDDEN))
        for name, call in SUMS.items():
            yield f"{name} {count}", timed([partial(call, x, more) for x, more in pairs])
        wide = _copies(2 * count * INNER, partial(_random, count, 2 * INNER))
        for name, gate in GATES.items():
            yield f"{name} {count}", timed([partial(gate, x) for x in wide])


def whole() -> Iterator[tuple[str, float]]:
    """The decoder without attention and without its head, and the vision tower, in bfloat16 and then in eight bits."""
    checkpoint = random_checkpoint("cuda", torch.bfloat16)
    model, pixels = checkpoint.model, checkpoint.pixels
    Eye(model.vision, pixels)  # pads the tower
    sides = pixels.grid(pixels.side, pixels.side)
    grid = (1, *(pixels.merge_size * side for side in sides))
    for weights in ("bfloat16", "fp8"):
        if weights == "fp8":
            convert(model)
        for count in ROWS:
            rotation = model.decoder.rope.rotation(torch.arange(count, device="cuda").expand(3, -1))
            call = partial(model.decoder, _random(count, HIDDEN), rotation, _unattended)
            yield f"decoder {count} {weights}", timed([call])
        for count in (1, 8):
            patches = _random(count, grid[1] * grid[2], checkpoint.config.vision.patch_dim)
            yield f"vision tower {count} {weights}", timed([partial(model.vision, patches, grid)])


def _unattended(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """In place of attention, which weights have no part in."""
    return q


def _copies(values: int, make: Callable[[], Thing]) -> list[Thing]:
    """So many things of so many bytes at least that a cache cannot hold them."""
    return [make() for _ in range(min(max(-(-CACHE_BYTES // values), FEWEST), MOST))]


def _linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias, device="cuda", dtype=torch.bfloat16)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


def _random(*sizes: int) -> Tensor:
    return torch.randn(*sizes, device="cuda", dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
