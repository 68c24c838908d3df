"""The pieces that vision towers and decoders share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.models.rope import Rotation, rotate


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (arXiv:1910.07467) over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv:2002.05202), gate and up projection as one matrix product."""

    def __init__(self, size: int, intermediate_size: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(size, 2 * intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(gated(self.gate_up_proj(x)))
        return out

    def pad(self, multiple: int) -> None:
        """Widens the layer's inside with zeros to a multiple of `multiple`, which matrix units take faster.

        What comes out stays the same; a checkpoint fits no longer.
        """
        inner = self.down_proj.in_features
        more = -inner % multiple
        gates = self.gate_up_proj
        gates.weight = _widened(gates.weight.view(2, inner, -1), (0, 0, 0, more))
        if gates.bias is not None:
            gates.bias = _widened(gates.bias.view(2, inner), (0, more))
        self.down_proj.weight = nn.Parameter(F.pad(self.down_proj.weight.detach(), (0, more)), requires_grad=False)
        gates.out_features, self.down_proj.in_features = 2 * (inner + more), inner + more


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gates and ups side by side, [..., 2 * size] to [..., size]."""
    if _fused(gate_up):
        from workers.models import kernels

        return kernels.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotated(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Vectors [..., n, heads, head_dim] turned by the rows of tables [n, head_dim]; those given may be overwritten."""
    if _fused(vectors):
        from workers.models import kernels

        kernels.rotate(vectors.view(-1, *vectors.shape[-2:]), rotation.cos, rotation.sin)
        return vectors
    return rotate(vectors, rotation)


def _fused(x: Tensor) -> bool:
    """Whether one kernel does the work of several: where nothing is differentiated. The kernels need Triton."""
    return x.is_cuda and torch.is_inference_mode_enabled()


def _widened(halves: Tensor, padding: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(F.pad(halves.detach(), padding).flatten(0, 1), requires_grad=False)
