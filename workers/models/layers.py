"""The pieces that vision towers and decoders share."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.core import FLOAT8
from workers.models.eightbit import ScaledLinear, in_eight_bits
from workers.models.fusion import Rows, fused, gated, gated_scaled, normed


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (arXiv:1910.07467) over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def sum(self, x: Tensor, more: Tensor | None, reader: nn.Module) -> tuple[Tensor, Rows]:
        """x, with `more` added if there is any; and that normalised, as the layer takes it that reads it."""
        return normed(x, more, self.weight, self.eps, eight=in_eight_bits(reader))


class Linear(nn.Linear):
    """nn.Linear whose weight is read by a kernel of our own for few rows, where that is known to be faster."""

    _arrived: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self._of_few_rows(x, gated=False)
        return super().forward(x) if out is None else out

    def gated(self, x: Tensor) -> Tensor:
        """silu(gate) * up of gates and ups side by side, as `forward` gives them: [..., out_features / 2]."""
        out = self._of_few_rows(x, gated=True)
        return gated(self(x)) if out is None else out

    def _of_few_rows(self, x: Tensor, *, gated: bool) -> Tensor | None:
        if not fused(x):
            return None
        from workers.launches import hopper
        from workers.models import fewrows

        rows = x.reshape(-1, self.in_features)
        plan = fewrows.planned(rows, self.weight, gated=gated)
        if plan is None or not hopper(x.device):
            return None
        if self._arrived is None:
            self._arrived = torch.zeros(self.out_features // fewrows.TILE, dtype=torch.int32, device=x.device)
        out = fewrows.product(rows.contiguous(), self.weight, self.bias, self._arrived, plan, gated=gated)
        return out.view(*x.shape[:-1], -1)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv:2002.05202), gate and up projection as one matrix product."""

    def __init__(self, size: int, intermediate_size: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_up_proj: Linear | ScaledLinear = Linear(size, 2 * intermediate_size, bias=bias)
        self.down_proj: Linear | ScaledLinear = Linear(intermediate_size, size, bias=bias)

    @property
    def reader(self) -> nn.Module:
        """The layer that reads what this one is given."""
        return self.gate_up_proj

    def forward(self, x: Rows) -> Tensor:
        gates = self.gate_up_proj
        inner = gated_scaled(gates(x)) if isinstance(gates, ScaledLinear) else gates.gated(cast(Tensor, x))
        out: Tensor = self.down_proj(inner)
        return out

    def pad(self, multiple: int) -> None:
        """Widens the layer's inside with zeros to a multiple of `multiple`, which matrix units take faster.

        What comes out stays the same; a checkpoint fits no longer.
        """
        gates, down = self.gate_up_proj, self.down_proj
        inner = down.in_features
        more = -inner % multiple
        gates.weight = _frozen(_padded(gates.weight.view(2, inner, -1), 0, 0, 0, more).flatten(0, 1))
        if gates.bias is not None:
            gates.bias = _frozen(_padded(gates.bias.view(2, inner), 0, more).flatten())
        if isinstance(gates, ScaledLinear):
            gates.scale = _padded(gates.scale.view(2, inner), 0, more).view(1, -1)
        down.weight = _frozen(_padded(down.weight, 0, more))
        gates.out_features, down.in_features = 2 * (inner + more), inner + more


def _padded(values: Tensor, *padding: int) -> Tensor:
    """With zeros, which eight-bit floats have no operation for; theirs is the byte 0."""
    if values.dtype == FLOAT8:
        return F.pad(values.detach().view(torch.uint8), padding).view(FLOAT8)
    return F.pad(values.detach(), padding)


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
