"""Weights in eight bits: products of rows and matrices that are both scaled row by row (W8A8, FP8).

Kept in full are the embeddings, the head and the router of experts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from workers.core import FLOAT8
from workers.models.errors import UnsupportedModel
from workers.models.experts import Experts, multiply_groups
from workers.models.fusion import Rows, Scaled, gated_scaled, scaled

Weights = Literal["fp8"]

_ALIGNED = 16  # sizes that the matrix units take
_CAPABILITY = (8, 9)  # GPUs that have them: Ada, Hopper and later
_SHORT = 8192  # inputs up to which cuBLAS was seen to add a bias to whatever number of outputs
_KEPT = ("lm_head", "gate")


class ScaledLinear(nn.Module):
    """In place of nn.Linear. Its output is in the precision of the layer that it replaced."""

    scale: Tensor  # float32 [1, outputs]
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        """With that layer's weights."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._kind = layer.weight.dtype
        self.weight = nn.Parameter(torch.empty_like(layer.weight, dtype=FLOAT8), requires_grad=False)
        self.register_buffer("scale", torch.empty(1, len(layer.weight), device=layer.weight.device))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
        self.fill(0, layer.weight.detach())

    @torch.no_grad()
    def fill(self, start: int, rows: Tensor) -> None:
        """Replaces the weight's rows from `start` on by others [n, inputs]."""
        values, scale = scaled(rows.to(self.scale.device))
        self.weight[start : start + len(rows)] = values
        self.scale[0, start : start + len(rows)] = scale[:, 0]

    def forward(self, x: Rows) -> Tensor:
        """Rows [..., inputs] to [..., outputs]."""
        x = x if isinstance(x, Scaled) else scaled(x)
        rows = Scaled(x.values.reshape(-1, self.in_features), x.scale.reshape(-1, 1))
        return self._product(rows).view(*x.values.shape[:-1], self.out_features)

    def _product(self, rows: Scaled) -> Tensor:
        values, scale = rows
        if not len(values):
            return self.scale.new_empty(0, self.out_features, dtype=self._kind)
        aligned = self.in_features % _ALIGNED == self.out_features % _ALIGNED == 0
        if values.is_cuda and aligned and self._kind == torch.bfloat16:
            return self._product_on_units(rows)
        out = values.float() @ self.weight.float().T * scale * self.scale
        return (out if self.bias is None else out + self.bias.float()).to(self._kind)

    def _product_on_units(self, rows: Scaled) -> Tensor:
        """The same by matrix units, whose sums have some bits less than float32."""
        from workers.models import smallbatch

        values, scale = rows
        if smallbatch.fits(len(values), self.in_features, self.out_features):
            return smallbatch.product(values, scale, self.weight, self.scale, self.bias, self._kind)
        short = self.in_features <= _SHORT
        fused = self.bias if short else None
        out = torch._scaled_mm(
            values, self.weight.T, scale, self.scale, fused, out_dtype=self._kind, use_fast_accum=True
        )
        return out if short or self.bias is None else out + self.bias


class ScaledExperts(nn.Module):
    """In place of Experts; each expert's outputs have scales of their own."""

    gate_up_proj: nn.Parameter
    down_proj: nn.Parameter
    gate_up_scale: Tensor  # float32 [experts, outputs]
    down_scale: Tensor

    def __init__(self, layer: Experts) -> None:
        """With that layer's weights."""
        super().__init__()
        self._kind = layer.down_proj.dtype
        for name in ("gate_up", "down"):
            weight = layer.get_parameter(f"{name}_proj").detach()
            # In memory outputs come before inputs, as the matrix units take eight bits alone.
            upright = torch.empty_like(weight.mT, dtype=FLOAT8, memory_format=torch.contiguous_format)
            self.register_parameter(f"{name}_proj", nn.Parameter(upright.mT, requires_grad=False))
            self.register_buffer(f"{name}_scale", torch.empty(upright.shape[:2], device=weight.device))
            self.fill(f"{name}_proj", weight)

    @torch.no_grad()
    def fill(self, name: str, weight: Tensor) -> None:
        """Replaces the weight `name` by another [experts, inputs, outputs]."""
        device = self.down_scale.device if name == "down_proj" else self.gate_up_scale.device
        values, scale = scaled(weight.to(device).mT)
        self.get_parameter(name).copy_(values.mT)
        self.get_buffer(name.replace("_proj", "_scale")).copy_(scale[..., 0])

    def forward(self, x: Tensor, rows: Tensor, stops: Tensor) -> Tensor:
        """As Experts do."""
        values, scale = scaled(x)
        chosen = Scaled(values.view(torch.uint8)[rows].view(FLOAT8), scale[rows])
        gate_up = self._product(chosen, self.gate_up_proj, self.gate_up_scale, stops)
        return self._product(gated_scaled(gate_up), self.down_proj, self.down_scale, stops)

    def _product(self, rows: Scaled, weights: Tensor, weights_scale: Tensor, stops: Tensor) -> Tensor:
        values, scale = rows
        _, inputs, outputs = weights.shape
        if not len(values):
            return scale.new_empty(0, outputs, dtype=self._kind)
        if values.is_cuda and self._kind == torch.bfloat16 and inputs % _ALIGNED == outputs % _ALIGNED == 0:
            offs, kind = stops.int(), self._kind
            return torch._scaled_grouped_mm(
                values, weights, scale[:, 0], weights_scale, offs, out_dtype=kind, use_fast_accum=True
            )
        exact = weights.float() * weights_scale.unsqueeze(1)
        return multiply_groups(values.float() * scale, exact, stops).to(self._kind)


def in_eight_bits(layer: nn.Module) -> bool:
    """Whether a layer takes rows that are scaled already."""
    return isinstance(layer, ScaledLinear)


def convert(model: nn.Module) -> None:
    """Replaces a model's matrices, one after the other. UnsupportedModel if its device cannot multiply them."""
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Linear) and name not in _KEPT:
                check(layer.weight.device)
                setattr(parent, name, ScaledLinear(layer))
            elif isinstance(layer, Experts):
                check(layer.down_proj.device)
                setattr(parent, name, ScaledExperts(layer))


def check(device: torch.device) -> None:
    """UnsupportedModel if a device has no matrix units for eight bits; the CPU computes what they would."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _CAPABILITY:
        raise UnsupportedModel("fp8 weights need a GPU of compute capability 8.9 or more (Ada, Hopper)")
