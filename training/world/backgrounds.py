"""Backgrounds: drawn ones (plain, sloping, striped, checked, cloudy) and photographs, fainter than what is on them."""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from training.world.catalogue import ASSETS

SIDE = 256  # wider than the picture, which leaves room for the camera to move
COUNT = 220
_PHOTO_SHARE = 3  # every third background is made from a photograph


@cache
def backgrounds() -> torch.Tensor:
    """All backgrounds, uint8 [220, 3, 256, 256]; the same on every machine."""
    rng = np.random.default_rng(20)
    sheet = np.asarray(Image.open(ASSETS / "photos.webp").convert("RGB"), dtype=np.float32) / 255
    photos = torch.from_numpy(sheet.copy()).permute(2, 0, 1).tensor_split(sheet.shape[1] // SIDE, dim=2)
    made = [_photo(rng, photos) if n % _PHOTO_SHARE == 0 else _drawn(rng, n) for n in range(COUNT)]
    return (torch.stack(made).clamp(0, 1) * 255).round().to(torch.uint8)


def _photo(rng: np.random.Generator, photos: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A photograph turned or mirrored, cut closer, tinted and made fainter around a random grey."""
    photo = photos[rng.integers(len(photos))]
    photo = torch.rot90(photo, int(rng.integers(4)), (1, 2))
    if rng.random() < 0.5:
        photo = photo.flip(2)
    room = int(rng.integers(128, SIDE + 1))
    top, left = rng.integers(SIDE - room + 1, size=2)
    photo = photo[:, top : top + room, left : left + room]
    photo = F.interpolate(photo[None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    tint = _tensor(rng.uniform(0.8, 1.2, (3, 1, 1)))
    return rng.uniform(0.3, 0.75) + (photo - photo.mean()) * tint * rng.uniform(0.35, 0.8)


def _drawn(rng: np.random.Generator, number: int) -> torch.Tensor:
    first, second = _tensor(rng.uniform(0.15, 0.95, (2, 3, 1, 1)))
    second = first + (second - first) * rng.uniform(0.15, 0.6)
    drawn: torch.Tensor = first + (second - first) * _mix(rng, number % 7)[None]
    return drawn


def _mix(rng: np.random.Generator, kind: int) -> torch.Tensor:
    """A pattern [256, 256] of values between 0 and 1."""
    down, across = torch.meshgrid(torch.arange(SIDE) / SIDE, torch.arange(SIDE) / SIDE, indexing="ij")
    angle, count = rng.uniform(0, 2 * np.pi), rng.uniform(2, 9)
    along = across * float(np.cos(angle)) + down * float(np.sin(angle))
    if kind == 0:
        return torch.zeros(SIDE, SIDE)
    if kind in (1, 2):
        return along
    if kind == 3:
        return (torch.sin(along * float(count) * 6.28) > 0).float()
    if kind == 4:
        return (((across * float(count)).floor() + (down * float(count)).floor()) % 2).float()
    cells = int(rng.integers(3, 7)) if kind == 5 else 64
    noise = _tensor(rng.uniform(0, 1, (1, 1, cells, cells)))
    return F.interpolate(noise, (SIDE, SIDE), mode="bicubic", align_corners=True)[0, 0].clamp(0, 1)


def _tensor(values: "np.typing.NDArray[np.float64]") -> torch.Tensor:
    return torch.from_numpy(values).float()
