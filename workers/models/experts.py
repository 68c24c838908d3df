"""A mixture of experts: many feed-forward layers, of which each token goes through a few (arXiv:1701.06538)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.models.config import ExpertsConfig
from workers.models.fusion import gated


class Experts(nn.Module):
    """The experts' weights, each kind stacked over them with inputs before outputs, as on the hub."""

    def __init__(self, size: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(config.count, size, 2 * config.intermediate_size))
        self.down_proj = nn.Parameter(torch.empty(config.count, config.intermediate_size, size))
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def forward(self, x: Tensor, rows: Tensor, stops: Tensor) -> Tensor:
        """The `rows` int64 [n] of x [..., size] through their experts.

        Expert i takes those from `stops[i - 1]` (or 0) to `stops[i]` - 1.
        """
        return multiply_groups(gated(multiply_groups(x[rows], self.gate_up_proj, stops)), self.down_proj, stops)


class MixtureOfExperts(nn.Module):
    """In place of SwiGLU: the router `gate` picks each token's experts and weights their outputs."""

    def __init__(self, size: int, config: ExpertsConfig) -> None:
        super().__init__()
        self._chosen = config.chosen
        self.gate = nn.Linear(size, config.count, bias=False)
        self.experts = Experts(size, config)

    @property
    def reader(self) -> nn.Module:
        """The layer that reads what this one is given."""
        return self.gate

    def forward(self, x: Tensor) -> Tensor:
        scores, experts = self.gate(x).float().softmax(dim=-1).topk(self._chosen, dim=-1)
        scores = (scores / scores.sum(dim=-1, keepdim=True)).to(x.dtype)
        sorted_experts, order = experts.flatten().sort(stable=True)
        every = torch.arange(self.gate.out_features, device=x.device)
        stops = torch.searchsorted(sorted_experts, every, right=True)
        outputs = self.experts(x, order // self._chosen, stops)
        # Gathered and summed in each token's own order, since sums by atomic adds would differ from run to run.
        outputs = outputs[order.argsort()].view(len(x), self._chosen, x.shape[-1])
        return torch.bmm(scores.unsqueeze(1), outputs).squeeze(1)


def multiply_groups(x: Tensor, weights: Tensor, stops: Tensor) -> Tensor:
    """Rows [n, inputs], those up to each of `stops` [groups] times the next of weights [groups, inputs, outputs].

    bfloat16 off the CPU goes through the grouped kernel, for which the host need not wait; the rest one by one.
    """
    if not len(x):
        return x.new_empty(0, weights.shape[-1])
    if x.device.type != "cpu" and x.dtype == torch.bfloat16:
        return F.grouped_mm(x, weights, offs=stops.int())
    counts = stops.diff(prepend=stops.new_zeros(1)).tolist()
    parts = [rows @ weight for rows, weight in zip(torch.split(x, counts), weights, strict=True) if len(rows)]
    return torch.cat(parts)
