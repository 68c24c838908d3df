"""Pictures to tokens: fitting, patching and the vision tower, pictures of one shape as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.models.pixels import PixelFormat, resized

Picture = NDArray[np.uint8]  # [height, width, 3], RGB


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

    def __init__(self, tower: nn.Module, pixels: PixelFormat) -> None:
        """`tower` takes patches [n, patches, patch_dim] and their grid (t, h, w), and gives [n, tokens, hidden]."""
        self._tower = tower
        self._pixels = replace(pixels, max_pixels=max(pixels.side**2, pixels.min_pixels))
        self._weight = next(tower.parameters())

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

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        """Features of pictures, in their order."""
        fitted = [resized(picture, *self._pixels.fitted(*picture.shape[:2])) for picture in pictures]
        features: dict[int, Features] = {}
        for shape in dict.fromkeys(picture.shape for picture in fitted):
            alike = [index for index, picture in enumerate(fitted) if picture.shape == shape]
            tokens = self._encode_alike(np.stack([fitted[index] for index in alike]))
            height, width = self._pixels.grid(*shape[:2])
            features.update((index, Features(tokens[i], height, width)) for i, index in enumerate(alike))
        return [features[index] for index in range(len(fitted))]

    def _encode_alike(self, pictures: NDArray[np.uint8]) -> Tensor:
        patches = self._pixels.patches(torch.from_numpy(pictures).to(self._weight.device)).to(self._weight.dtype)
        merge = self._pixels.merge_size
        height, width = self._pixels.grid(*pictures.shape[1:3])
        tokens: Tensor = self._tower(patches, (1, height * merge, width * merge))
        return tokens
