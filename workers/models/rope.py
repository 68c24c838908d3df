"""Rotary position embedding (RoFormer, arXiv:2104.09864) over the three axes of M-RoPE (Qwen2-VL, arXiv:2409.12191)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Tables [n, head_dim] in float32 by which `rotate` turns vectors; `sin` carries the sign of each half."""

    cos: Tensor
    sin: Tensor


class Rope:
    """Makes rotations for one head dimension.

    Frequencies are kept in float32 for each device in use, whatever precision the model's weights have.
    """

    def __init__(
        self,
        head_dim: int,
        theta: float,
        sections: tuple[int, int, int] | None = None,
        *,
        interleaved: bool = False,
    ) -> None:
        """`sections`: how many of the head_dim // 2 frequencies turn with each axis; None gives all to the first.

        They are dealt out one axis after the other or, `interleaved`, in turns (Qwen3-VL, arXiv:2511.21631).
        """
        self._head_dim = head_dim
        self._theta = theta
        self._axes = _axes(sections or (head_dim // 2, 0, 0), interleaved)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def rotation(self, positions: Tensor) -> Rotation:
        """The rotation to positions int64 [3, n].

        Turning is additive, so keys stored at p move to p + d by the rotation of d, negative or not: that is how a
        segment is re-anchored, from its stored keys and the difference to the base they were stored with.
        """
        frequencies, axes = self._tables(positions.device)
        angles = positions[axes].T.float() * frequencies
        return halves_rotation(angles)

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        tables = self._on_device.get(device)
        if tables is None:
            with torch.inference_mode(mode=False):  # the same tables may serve training later
                turns = frequencies(self._head_dim, self._theta)
                tables = turns.to(device), torch.tensor(self._axes, device=device)
            self._on_device[device] = tables
        return tables


def _axes(sections: tuple[int, int, int], interleaved: bool) -> list[int]:
    """The axis that each frequency turns with. Dealt in turns, time takes what is left once the others have theirs."""
    if not interleaved:
        return [axis for axis, count in enumerate(sections) for _ in range(count)]
    turns = [divmod(place, len(sections)) for place in range(sum(sections))]
    return [axis if turn < sections[axis] else 0 for turn, axis in turns]


def frequencies(dim: int, theta: float) -> Tensor:
    """Angles per position [dim // 2], float32 on the CPU."""
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim))


def halves_rotation(angles: Tensor) -> Rotation:
    """The rotation by angles [..., head_dim // 2] of the pairs (i, i + head_dim // 2)."""
    cos, sin = angles.cos(), angles.sin()
    return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Vectors [..., n, heads, head_dim] turned, each n by its row of the tables; computed in float32."""
    cos, sin = rotation.cos.unsqueeze(-2), rotation.sin.unsqueeze(-2)
    exact = vectors.float()
    turned = torch.addcmul(exact * cos, exact.roll(vectors.shape[-1] // 2, dims=-1), sin)
    return turned.to(vectors.dtype)
