"""What cameras and codecs do to pictures: noise, blur, coarse chroma, quantised 8x8 cosine blocks, more or less."""

import math
from functools import cache

import torch
from torch.nn import functional as F

_BLOCK = 8
_LUMA = (0.299, 0.587, 0.114)


def degrade(pictures: torch.Tensor, noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures float32 [N, 3, H, W], 0 to 1, as a camera with `noise` [N] and some video codec would give them back.

    About a sixth of them stay sharp and uncompressed. H and W are multiples of 16.
    """
    device, count = pictures.device, len(pictures)
    lots = torch.rand(4, count, 1, 1, 1, generator=generator, device=device)
    grain = torch.randn(pictures.shape, generator=generator, device=device)
    pictures = pictures + grain * noise[:, None, None, None]
    blurred = F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    pictures = torch.lerp(pictures, blurred, (lots[0] * 1.6 - 0.8).clamp(min=0))
    weights = torch.tensor(_LUMA, device=device)
    luma = (pictures * weights[:, None, None]).sum(1, keepdim=True)
    chroma = F.avg_pool2d(pictures[:, ::2] - luma, 2)  # red and blue differences
    coarse = (lots[1] * 1.2 - 0.2).clamp(min=0) ** 2
    luma = _quantised(luma, (0.004 + 0.075 * coarse) * (lots[2] > 0.05))
    chroma = _quantised(chroma, (0.006 + 0.11 * coarse) * (lots[2] > 0.05))
    red, blue = (F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False) + luma).chunk(2, 1)
    green = (luma - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
    coded = torch.cat((red, green, blue), 1)
    return torch.where(lots[3] < 0.16, pictures, coded).clamp(0, 1)


def _quantised(planes: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Planes [N, C, H, W] with their block coefficients rounded to multiples of `step` [N, 1, 1, 1], or coarser."""
    down, across = (_block_cosines(side).to(planes.device) for side in planes.shape[2:])
    frequency = torch.arange(planes.shape[2], device=planes.device) % _BLOCK
    other = torch.arange(planes.shape[3], device=planes.device) % _BLOCK
    size = (step * (1.0 + 0.35 * (frequency[:, None] + other))).clamp(min=1e-5)
    coefficients = ((down @ planes @ across.T) / size).round() * size
    quantised: torch.Tensor = down.T @ coefficients @ across
    return quantised


@cache
def _block_cosines(side: int) -> torch.Tensor:
    """The orthonormal cosine transform of each 8 of `side` values as one matrix, whose products GPUs are fast at."""
    place, frequency = torch.arange(_BLOCK) + 0.5, torch.arange(_BLOCK)[:, None]
    basis = torch.cos(math.pi / _BLOCK * frequency * place) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return torch.kron(torch.eye(side // _BLOCK), basis)
