"""From pictures to patches, as transformers' image processor for the Qwen-VL families makes them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workers.models.config import Section, VisionConfig, read_section
from workers.models.errors import CheckpointError, UnsupportedModel

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_MOST_OBLONG = 200


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How a model wants its pictures: sizes and areas in pixels, `mean` and `std` of each channel between 0 and 1.

    `side` is the edge of the square picture that a stream has where no other size is asked for.
    """

    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int

    @classmethod
    def from_folder(cls, folder: Path, vision: VisionConfig, default_pixels: int) -> "PixelFormat":
        """The format of a checkpoint's folder. CheckpointError if its file is missing or fits another model."""
        section = _image_processor(folder)
        for key, expected in (("patch_size", vision.patch_size), ("merge_size", vision.merge_size)):
            if section.integer(key, expected) != expected:
                raise CheckpointError(f"{folder}: {key} of the image processor is not {expected} as in config.json")
        area = section.section("size") or Section("size", {})
        min_pixels = area.integer("shortest_edge", section.integer("min_pixels", 56 * 56))
        max_pixels = area.integer("longest_edge", section.integer("max_pixels", 28 * 28 * 1280))
        if min_pixels > max_pixels:
            raise CheckpointError(f"{folder}: the image processor's smallest picture is larger than its largest")
        wanted = min(max(default_pixels, min_pixels), max_pixels)
        return cls(
            patch_size=vision.patch_size,
            merge_size=vision.merge_size,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            mean=_channels(section, "image_mean", _CLIP_MEAN),
            std=_channels(section, "image_std", _CLIP_STD),
            side=max(1, math.isqrt(wanted) // vision.merged_patch) * vision.merged_patch,
        )

    @property
    def factor(self) -> int:
        """Both sides of a picture are multiples of this."""
        return self.patch_size * self.merge_size

    @property
    def tokens(self) -> int:
        """Of the square picture of the usual size."""
        return (self.side // self.factor) ** 2

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """The size to which a picture is resized: multiples of `factor`, about the same shape, an allowed area.

        ValueError for a picture without area or more oblong than 200 to 1.
        """
        if min(height, width) < 1 or max(height, width) > _MOST_OBLONG * min(height, width):
            raise ValueError(f"a picture of {width} x {height} pixels is empty or too oblong")
        nearest = [round(side / self.factor) * self.factor for side in (height, width)]
        if nearest[0] * nearest[1] > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            nearest = [
                max(self.factor, math.floor(side / shrink / self.factor) * self.factor) for side in (height, width)
            ]
        elif nearest[0] * nearest[1] < self.min_pixels:
            growth = math.sqrt(self.min_pixels / (height * width))
            nearest = [math.ceil(side * growth / self.factor) * self.factor for side in (height, width)]
        return nearest[0], nearest[1]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Merged patches down and across a picture of a fitted size."""
        return height // self.factor, width // self.factor

    def patches(self, frames: Tensor) -> Tensor:
        """Normalised patches of frames uint8 [n, h, w, channels] or, several pictures a grid, [n, t, h, w, channels].

        Float32 [n, patches, channels * t * patch_size^2] on the frames' device, patches grouped by the merged patch
        that they belong to; sizes must be multiples of `factor`. Frames without a time axis give t = 1, which the
        vision tower takes as the picture repeated over the temporal patch.
        """
        if frames.ndim == 4:
            frames = frames.unsqueeze(1)
        items, times, height, width, channels = frames.shape
        rows, columns = self.grid(height, width)
        if frames.dtype != torch.uint8 or (rows * self.factor, columns * self.factor) != (height, width):
            raise ValueError(f"frames of {width} x {height} in {frames.dtype} are not uint8 multiples of {self.factor}")
        cut = frames.view(items, times, rows, self.merge_size, self.patch_size, columns, -1, self.patch_size, channels)
        cut = cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).contiguous()
        values = cut.float()
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            values[:, :, :, :, :, channel].mul_(1 / (255 * std)).sub_(mean / std)
        return values.view(items, rows * columns * self.merge_size**2, -1)


def resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture uint8 [h, w, 3] at another size, bicubic."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _image_processor(folder: Path) -> Section:
    """Older folders have the image processor's settings in a file of their own, newer ones among the processor's."""
    if (folder / "preprocessor_config.json").exists() or not (folder / "processor_config.json").exists():
        return read_section(folder, "preprocessor_config.json")
    section = read_section(folder, "processor_config.json").section("image_processor")
    if section is None:
        raise CheckpointError(f"{folder / 'processor_config.json'} lacks image_processor")
    return section


def _channels(section: Section, key: str, default: Sequence[float]) -> tuple[float, ...]:
    values = section.values.get(key, default)
    if not isinstance(values, Sequence) or not all(isinstance(value, (int, float)) for value in values):
        raise CheckpointError(f"{section.name}: {key} must be a list of numbers, not {values!r}")
    if len(values) != len(default):
        raise UnsupportedModel(f"{section.name}: pictures with {len(values)} channels are not supported")
    return tuple(float(value) for value in values)
