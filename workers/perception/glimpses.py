"""Pictures of which only some windows are computed: those in which something is wanted, of all streams as one batch."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import sent, staged
from workers.models.afterimages import Afterimages, Glance
from workers.models.capture import Captured, Memory
from workers.models.pixels import PixelFormat
from workers.models.vision import VisionTower
from workers.perception.canvas import Canvas, Picture
from workers.perception.changes import Patches

TOGETHER = 8  # pictures in a batch
_SCRATCH = 1  # places of streams that are none: graphs are captured on the first one

Places = NDArray[np.int64]
Windows = NDArray[np.bool_]  # [windows]: whether each of a picture's has to be computed


class Change(NamedTuple):
    """What is wanted of a stream's next picture: these merged patches; None: all, as of its first."""

    stream: str
    patches: Patches | None


class Glimpse(NamedTuple):
    """Tokens [tokens, width] of a picture, which of them were computed, and of the patches that were wanted theirs."""

    tokens: Tensor
    seen: NDArray[np.bool_]
    kept: Tensor | None


class Glimpses:
    """Remembers so many streams; one that was forgotten is seen whole again."""

    def __init__(self, tower: VisionTower, pixels: PixelFormat, afterimages: Afterimages) -> None:
        self._tower, self._pixels, self._afterimages = tower, pixels, afterimages
        self._device = afterimages.layout.order.device
        self._windows = afterimages.window_of()
        self._free = list(range(_SCRATCH, afterimages.streams))
        self._places: OrderedDict[str, int] = OrderedDict()
        self._canvas = Canvas(TOGETHER, (pixels.side, pixels.side, 3), self._device)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._memory = Memory(self._device)

    @classmethod
    def of(cls, tower: VisionTower, pixels: PixelFormat, streams: int) -> Glimpses | None:
        """None if the tower computes pictures of the usual size only as a whole."""
        side = pixels.side // pixels.patch_size
        afterimages = tower.afterimages(side, side, _SCRATCH + max(streams, TOGETHER))
        return None if afterimages is None else cls(tower, pixels, afterimages)

    def share(self, change: Change) -> float:
        """How much of a picture has to be computed for a change."""
        return 1.0 if change.patches is None else float(self._touched(change.patches).mean())

    def warm(self) -> None:
        """Captures what batches of all sizes need."""
        pictures = 1
        while pictures <= TOGETHER:
            most, step = pictures * self._afterimages.windows, _step(pictures)
            for windows in range(step, most + step, step):
                self._graph(pictures, windows)
            pictures *= 2

    def encode(self, pictures: Sequence[Picture], changes: Sequence[Change]) -> list[Glimpse]:
        """Pictures of the usual size, each with its change, those of one stream in their order."""
        glimpses: dict[int, Glimpse] = {}
        left = list(range(len(pictures)))
        while left:
            first = {changes[index].stream: index for index in reversed(left)}
            coming = Counter(changes[index].stream for index in left)
            batch = sorted(first.values(), key=lambda index: (-coming[changes[index].stream], index))[:TOGETHER]
            seen = self._batch([pictures[index] for index in batch], [changes[index] for index in batch])
            glimpses.update(zip(batch, seen, strict=True))
            left = [index for index in left if index not in glimpses]
        return [glimpses[index] for index in range(len(pictures))]

    def _batch(self, pictures: Sequence[Picture], changes: Sequence[Change]) -> list[Glimpse]:
        """At most TOGETHER pictures, all of different streams."""
        streams, windows = zip(*map(self._wanted, changes), strict=True)
        wanted = np.stack(windows)
        places = np.flatnonzero(wanted)
        size = 1 << (len(pictures) - 1).bit_length()
        room = -(-max(len(places), 1) // _step(size)) * _step(size) if self._device.type == "cuda" else len(places)
        self._canvas.show(pictures)
        tokens = self._graph(size, room).run(_filled(streams, size), _filled(places, room))
        kept = self._kept(tokens, changes)
        return [Glimpse(*each) for each in zip(tokens, wanted[:, self._windows], kept, strict=False)]

    def _kept(self, tokens: Tensor, changes: Sequence[Change]) -> list[Tensor | None]:
        """Of tokens [pictures, tokens, width] those that were wanted of each, where that is not all."""
        some = [(number, change.patches) for number, change in enumerate(changes) if change.patches is not None]
        kept: list[Tensor | None] = [None] * len(changes)
        if some:
            rows = np.concatenate([number * tokens.shape[1] + patches for number, patches in some])
            picked = tokens.flatten(0, 1).index_select(0, sent(rows, self._device))
            parts = torch.split(picked, [len(patches) for _, patches in some])
            for (number, _), part in zip(some, parts, strict=True):
                kept[number] = part
        return kept

    def _wanted(self, change: Change) -> tuple[int, Windows]:
        """The place of a stream, and the windows of its picture that have to be computed."""
        place = self._places.pop(change.stream, None)
        known = place is not None
        if place is None:
            place = self._free.pop() if self._free else self._places.popitem(last=False)[1]
        self._places[change.stream] = place
        if known and change.patches is not None:
            return place, self._touched(change.patches)
        return place, np.ones(self._afterimages.windows, np.bool_)

    def _touched(self, patches: Patches) -> Windows:
        touched = np.zeros(self._afterimages.windows, np.bool_)
        touched[self._windows[patches]] = True
        return touched

    def _graph(self, pictures: int, windows: int) -> _Graph:
        key = pictures, windows
        if key not in self._graphs:
            self._graphs[key] = _Graph(self._see, self._canvas.first(pictures), windows, self._memory)
        return self._graphs[key]

    def _see(self, pictures: Tensor, glance: Glance) -> Tensor:
        patches = self._pixels.patches(pictures).to(self._afterimages.dtype)
        return self._tower.glimpse(patches, self._afterimages, glance)


class _Graph:
    """The way from some windows of some pictures to their tokens as one graph."""

    def __init__(self, see: Callable[[Tensor, Glance], Tensor], pictures: Tensor, windows: int, memory: Memory) -> None:
        self._asked = torch.zeros(len(pictures) + windows, dtype=torch.int64, device=pictures.device)
        self._glance = Glance(*torch.split(self._asked, [len(pictures), windows]))
        self._captured = Captured(lambda: see(pictures, self._glance), pictures.device, memory)

    def run(self, streams: Places, windows: Places) -> Tensor:
        """Tokens [pictures, tokens, width], which are the caller's."""
        asked = np.concatenate([streams, windows])
        self._asked.copy_(staged(asked, self._asked.device), non_blocking=True)
        return self._captured.replay().clone()


def _step(pictures: int) -> int:
    """By how many windows the graphs for so many pictures differ: an eighth of 16 in each."""
    return max(4, 2 * pictures)


def _filled(places: Sequence[int] | Places, size: int) -> Places:
    """Padded by the first one, which changes nothing: what is done for it twice comes out the same."""
    filled = np.zeros(size, dtype=np.int64)
    filled[: len(places)] = places
    filled[len(places) :] = filled[0]
    return filled
