"""Pictures to tokens: fitting, patching and the vision tower, pictures of one shape as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.models.capture import Captured
from workers.models.layers import SwiGLU
from workers.models.pixels import PixelFormat, resized
from workers.models.vision import VisionTower

Picture = NDArray[np.uint8]  # [height, width, 3], RGB

_BATCHES = (8, 4, 2, 1)
_GRAPHS_KEPT = 16
_ALIGNED = 128


@dataclass(frozen=True, slots=True)
class Features:
    """A frame for the decoder: height x width merged patches as tokens [height * width, width of the tower's tokens].

    They are row major, and each row holds all that belongs to its token.
    """

    tokens: Tensor
    height: int
    width: int


class Eye:
    """Encodes streams' pictures; none gets more tokens than the square picture of the model's default size."""

    def __init__(self, tower: VisionTower, pixels: PixelFormat) -> None:
        """The tower is the eye's alone from here on: on a GPU its layers are padded to sizes that it takes faster."""
        self._tower = tower
        self._pixels = replace(pixels, max_pixels=max(pixels.side**2, pixels.min_pixels))
        self._weight = next(tower.parameters())
        self._graphs: dict[tuple[int, ...], Graphed] = {}
        if self._weight.is_cuda:
            for layer in tower.modules():
                if isinstance(layer, SwiGLU):
                    layer.pad(_ALIGNED)

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

    def warm(self) -> None:
        """Prepares for pictures that need no resizing, so that the first of them do not wait for it."""
        if self._weight.is_cuda:
            blank = np.zeros((self.side, self.side, 3), dtype=np.uint8)
            self.encode([blank] * sum(_BATCHES))

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        """Features of pictures, in their order."""
        fitted = [resized(picture, *self._pixels.fitted(*picture.shape[:2])) for picture in pictures]
        features: dict[int, Features] = {}
        for shape in dict.fromkeys(picture.shape for picture in fitted):
            alike = [index for index, picture in enumerate(fitted) if picture.shape == shape]
            tokens = self._encode_alike([fitted[index] for index in alike])
            height, width = self._pixels.grid(*shape[:2])
            features.update((index, Features(tokens[i], height, width)) for i, index in enumerate(alike))
        return [features[index] for index in range(len(fitted))]

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
        self._pictures = torch.zeros((batch, *shape), dtype=torch.uint8, device=device)
        self._captured = Captured(lambda: eye._see(self._pictures), device)

    def encode(self, pictures: Sequence[Picture]) -> Tensor:
        """Tokens [n, tokens, width], which are the caller's."""
        staged = torch.empty(self._pictures.shape, dtype=torch.uint8, pin_memory=self._pictures.is_cuda)
        np.stack(pictures, out=staged.numpy())
        self._pictures.copy_(staged, non_blocking=True)
        return self._captured.replay().clone()
