"""From logits to tokens: greedy, or by temperature and nucleus (arXiv:1904.09751), with a seed for each question."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor


class Sampler:
    """Draws one answer's tokens; what it draws depends on nothing but the seed and its own logits."""

    def __init__(self, temperature: float, top_p: float, seed: int, drawn: int = 0) -> None:
        """`drawn` tokens of the answer are there already: drawing goes on as if it had drawn them."""
        self.greedy = temperature <= 0 or top_p <= 0
        self._temperature, self._top_p = temperature, top_p
        self._random = random.Random(seed)  # noqa: S311 - reproducible drawing, no secrets
        for _ in range(0 if self.greedy else drawn):
            self._random.random()

    def draw(self, logits: Tensor) -> int:
        """One token by logits float [vocabulary]."""
        probabilities = torch.softmax(logits.double() / self._temperature, dim=-1)
        ordered, tokens = probabilities.sort(descending=True)
        reached = ordered.cumsum(dim=-1)
        nucleus = int((reached < self._top_p).sum()) + 1
        reached = reached[:nucleus]
        target = self._random.random() * float(reached[-1])
        return int(tokens[min(int((reached <= target).sum()), len(reached) - 1)])


def sample(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """One token for each row of logits [n, vocabulary]; a single copy to the host where all are greedy."""
    likeliest: list[int] = logits.argmax(dim=-1).tolist()
    return [
        token if sampler.greedy else sampler.draw(row)
        for token, row, sampler in zip(likeliest, logits, samplers, strict=True)
    ]
