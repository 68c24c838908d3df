"""Pictures to tokens: fitting, patching and the vision tower, pictures of one shape as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import sent
from workers.models.capture import Captured
from workers.models.layers import SwiGLU
from workers.models.pixels import PixelFormat, resized
from workers.models.vision import VisionTower
from workers.perception.canvas import Canvas
from workers.perception.canvas import Picture as Picture
from workers.perception.changes import Patches
from workers.perception.glimpses import Change, Glimpses

_BATCHES = (8, 4, 2, 1)
_GRAPHS_KEPT = 16
_ALIGNED = 128


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Features:
    """A frame for the decoder: height x width merged patches as tokens [height * width, width of the tower's tokens].

    They are row major, and each row holds all that belongs to its token. `seen`: those that were computed; None: all.
    `kept`: tokens of some patches that have been picked out already.
    """

    tokens: Tensor
    height: int
    width: int
    seen: NDArray[np.bool_] | None = None
    kept: tuple[Patches, Tensor] | None = None

    def of(self, patches: Patches | None) -> Tensor:
        """The tokens of these patches, None meaning all; the host does not wait for them."""
        if patches is None:
            return self.tokens
        if self.kept is not None and np.array_equal(self.kept[0], patches):
            return self.kept[1]
        return self.tokens.index_select(0, sent(patches, self.tokens.device))

    def tell(self, patches: Patches | None) -> bool:
        """Whether these patches, None meaning all, are among those that were computed."""
        return self.seen is None or bool((self.seen if patches is None else self.seen[patches]).all())


class Eye:
    """Encodes streams' pictures; none gets more tokens than the square picture of the model's default size."""

    def __init__(self, tower: VisionTower, pixels: PixelFormat, streams: int = 0) -> None:
        """The tower is the eye's alone from here on: on a GPU its layers are padded to sizes that it takes faster.

        `streams`: of how many it remembers what stands still, where the tower can.
        """
        self._tower = tower
        self._pixels = replace(pixels, max_pixels=max(pixels.side**2, pixels.min_pixels))
        self._weight = next(tower.parameters())
        self._graphs: dict[tuple[int, ...], Graphed] = {}
        if self._weight.is_cuda:
            for layer in tower.modules():
                if isinstance(layer, SwiGLU):
                    layer.pad(_ALIGNED)
        self._glimpses = Glimpses.of(tower, self._pixels, streams) if streams else None

    @property
    def side(self) -> int:
        """Edge in pixels of the square picture that needs no resizing."""
        return self._pixels.side

    @property
    def tokens(self) -> int:
        """Most tokens that a picture becomes."""
        return self._pixels.max_pixels // self._pixels.factor**2

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Merged patches down and across of a picture of this size. ValueError if it is empty or too oblong."""
        return self._pixels.grid(*self._pixels.fitted(height, width))

    def share(self, change: Change | None, height: int, width: int) -> float:
        """How much of a picture of height x width merged patches has to be encoded for a change."""
        if self._glimpses is None or change is None or (height, width) != self._pixels.grid(self.side, self.side):
            return 1.0
        return self._glimpses.share(change)

    def warm(self) -> None:
        """Prepares for pictures that need no resizing, so that the first of them do not wait for it."""
        if self._weight.is_cuda:
            blank = np.zeros((self.side, self.side, 3), dtype=np.uint8)
            self.encode([blank] * sum(_BATCHES))
            if self._glimpses is not None:
                with torch.inference_mode():
                    self._glimpses.warm()

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture], changes: Sequence[Change | None] | None = None) -> list[Features]:
        """Features of pictures, in their order; `changes`: where no more than that is wanted of one."""
        fitted = [resized(picture, *self._pixels.fitted(*picture.shape[:2])) for picture in pictures]
        features = self._encode_changes(fitted, changes or [None] * len(fitted))
        whole = [index for index in range(len(fitted)) if index not in features]
        for shape in dict.fromkeys(fitted[index].shape for index in whole):
            alike = [index for index in whole if fitted[index].shape == shape]
            tokens = self._encode_alike([fitted[index] for index in alike])
            height, width = self._pixels.grid(*shape[:2])
            features.update((index, Features(tokens[i], height, width)) for i, index in enumerate(alike))
        return [features[index] for index in range(len(fitted))]

    def _encode_changes(self, pictures: Sequence[Picture], changes: Sequence[Change | None]) -> dict[int, Features]:
        """Features of those pictures that need not be encoded whole, by their places."""
        if self._glimpses is None:
            return {}
        usual, grid = (self.side, self.side), self._pixels.grid(self.side, self.side)
        known = {
            index: change
            for index, change in enumerate(changes)
            if change is not None and pictures[index].shape[:2] == usual
        }
        seen = self._glimpses.encode([pictures[index] for index in known], list(known.values()))
        features = {}
        for (index, change), (tokens, told, kept) in zip(known.items(), seen, strict=True):
            picked = None if kept is None or change.patches is None else (change.patches, kept)
            features[index] = Features(tokens, *grid, told, picked)
        return features

    def _encode_alike(self, pictures: Sequence[Picture]) -> Tensor:
        """Tokens [n, tokens, width] of pictures of one shape."""
        parts = []
        while pictures:
            batch = next(size for size in _BATCHES if size <= len(pictures))
            parts.append(self._graph(batch, *pictures[0].shape).encode(pictures[:batch]))
            pictures = pictures[batch:]
        return torch.cat(parts)

    def _graph(self, batch: int, *shape: int) -> Graphed:
        """The graph for a batch of one shape; those used longest ago give way to others."""
        key = (batch, *shape)
        graph = self._graphs.pop(key, None) or Graphed(self, batch, shape, self._weight.device)
        self._graphs[key] = graph
        if len(self._graphs) > _GRAPHS_KEPT:
            del self._graphs[next(iter(self._graphs))]
        return graph

    def _see(self, pictures: Tensor) -> Tensor:
        patches = self._pixels.patches(pictures).to(self._weight.dtype)
        merge = self._pixels.merge_size
        height, width = self._pixels.grid(*pictures.shape[1:3])
        tokens: Tensor = self._tower(patches, (1, height * merge, width * merge))
        return tokens


class Graphed:
    """The way from so many pictures of one shape to their tokens as one graph."""

    def __init__(self, eye: Eye, batch: int, shape: tuple[int, ...], device: torch.device) -> None:
        self._canvas = Canvas(batch, shape, device)
        self._captured = Captured(lambda: eye._see(self._canvas.pixels), device)

    def encode(self, pictures: Sequence[Picture]) -> Tensor:
        """Tokens [n, tokens, width], which are the caller's."""
        self._canvas.show(pictures)
        return self._captured.replay().clone()
