"""Muon (Jordan et al. 2024; update scaled as in arXiv:2502.16982): momentum whose matrix updates are orthogonalised.

Matrices of one shape are orthogonalised together as a batch, which keeps the number of kernels small.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon(Optimizer):
    """For the matrices inside blocks; embeddings, norms and biases belong to another optimizer."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"], group["decay"])

    def _update(self, parameters: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        kept = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(kept, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, kept, momentum)
        scale = 0.2 * max(parameters[0].shape) ** 0.5
        updates = orthogonalised(torch.stack(ahead)).to(parameters[0].dtype).unbind()
        torch._foreach_mul_(parameters, 1 - lr * decay)
        torch._foreach_add_(parameters, list(updates), alpha=-lr * scale)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices [n, rows, columns] with all singular values brought near one: five Newton-Schulz rounds in bfloat16."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal
