"""What is done between matrix products: one kernel each on a GPU, plain torch elsewhere, which says what is right.

Rows may come out as products in eight bits take them, see `Scaled`: to make them so costs nothing where they are
written anyway, and a pass of its own elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.core import FLOAT8, FLOAT8_MOST
from workers.models.rope import Rotation, rotate

_SMALLEST = 1e-12


class Scaled(NamedTuple):
    """Rows [..., size] in eight bits: floats `values` of 4 bits exponent and 3 bits mantissa (arXiv:2209.05433), each
    row times its own `scale` float32 [..., 1], which puts its largest value at the largest that there is."""

    values: Tensor
    scale: Tensor


Rows = Tensor | Scaled


def scaled(rows: Tensor) -> Scaled:
    """Rows [..., size] in eight bits, each value the nearest that there is."""
    if fused(rows):
        from workers.models import kernels

        return Scaled(*kernels.scaled(rows, FLOAT8))
    exact = rows.float()
    scale = exact.abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST) * (1 / FLOAT8_MOST)
    return Scaled((exact * scale.reciprocal()).to(FLOAT8), scale)


def normed(x: Tensor, more: Tensor | None, weight: Tensor, eps: float, *, eight: bool = False) -> tuple[Tensor, Rows]:
    """x [..., size], with `more` added to it if there is any; and that root-mean-square normalised, times `weight`."""
    if fused(x):
        from workers.models import kernels

        total, *rows = kernels.norm(x, more, weight, eps, FLOAT8 if eight else x.dtype)
        return total, Scaled(*rows) if eight else rows[0]
    total = x if more is None else x + more
    out = F.rms_norm(total, weight.shape, weight, eps)
    return total, scaled(out) if eight else out


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gates and ups side by side, [..., 2 * size] to [..., size]."""
    if fused(gate_up):
        from workers.models import kernels

        return kernels.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def gated_scaled(gate_up: Tensor) -> Scaled:
    """The same in eight bits."""
    if fused(gate_up):
        from workers.models import kernels

        return Scaled(*kernels.swiglu_scaled(gate_up, FLOAT8))
    return scaled(gated(gate_up))


class HeadNorms(NamedTuple):
    """Weights [head_dim] by which the first `queries` heads and the others are normalised, each head for itself."""

    queries: int
    query: Tensor
    key: Tensor
    eps: float


def rotated(vectors: Tensor, rotation: Rotation, norms: HeadNorms | None = None) -> Tensor:
    """Vectors [..., n, heads, head_dim], normalised if so wanted, turned by the rows of tables [n, head_dim].

    Those given may be overwritten.
    """
    if fused(vectors):
        from workers.models import kernels

        kernels.rotate(vectors.view(-1, *vectors.shape[-2:]), rotation.cos, rotation.sin, norms)
        return vectors
    if norms is not None:
        size = norms.query.shape
        q, k = vectors.tensor_split((norms.queries,), dim=-2)
        heads = (F.rms_norm(q, size, norms.query, norms.eps), F.rms_norm(k, size, norms.key, norms.eps))
        vectors = torch.cat(heads, dim=-2)
    return rotate(vectors, rotation)


def fused(x: Tensor) -> bool:
    """Whether one kernel does the work of several: where nothing is differentiated. The kernels need Triton."""
    return x.is_cuda and torch.is_inference_mode_enabled()
