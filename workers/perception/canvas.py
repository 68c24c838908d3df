"""Pictures on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]  # [height, width, 3], RGB


class Canvas:
    """Room on a device for so many pictures of one shape, always in the same place: `pixels` uint8 [n, h, w, 3]."""

    def __init__(self, count: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.pixels = torch.zeros((count, *shape), dtype=torch.uint8, device=device)

    def first(self, count: int) -> Tensor:
        """The place of the first so many."""
        return self.pixels[:count]

    def show(self, pictures: Sequence[Picture]) -> None:
        """Puts pictures into the first places; the host does not wait until they are there."""
        place = self.first(len(pictures))
        staged = torch.empty(place.shape, dtype=torch.uint8, pin_memory=place.is_cuda)
        np.stack(pictures, out=staged.numpy())
        place.copy_(staged, non_blocking=True)
