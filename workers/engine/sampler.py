"""From logits to tokens: greedy, or by temperature and nucleus (arXiv:1904.09751), with a seed for each question."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from workers.core import Fence, sent


class Sampler:
    """Draws one answer's tokens; what it draws depends on nothing but the seed and its own logits."""

    def __init__(self, temperature: float, top_p: float, seed: int, drawn: int = 0) -> None:
        """`drawn` tokens of the answer are there already: drawing goes on as if it had drawn them."""
        self.greedy = temperature <= 0 or top_p <= 0
        self.temperature, self.top_p = temperature, top_p
        self._random = random.Random(seed)  # noqa: S311 - reproducible drawing, no secrets
        for _ in range(0 if self.greedy else drawn):
            self._random.random()

    def chance(self) -> float:
        """Where in the nucleus the next token lies, between 0 and 1."""
        return self._random.random()


class Drawn:
    """Tokens int64 [n] on the device that drew them; on their way to the host, which need not wait for them yet."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self._host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=tokens.is_cuda)
        self._host.copy_(tokens, non_blocking=True)
        self._there = Fence(tokens.device)
        self._there.mark()

    def read(self) -> list[int]:
        """The tokens, once they are there."""
        self._there.wait()
        tokens: list[int] = self._host.tolist()
        return tokens


@torch.inference_mode()
def sample(logits: Tensor, samplers: Sequence[Sampler]) -> Drawn:
    """One token for each row of logits [n, vocabulary]."""
    tokens = logits.argmax(dim=-1)
    rows = [row for row, sampler in enumerate(samplers) if not sampler.greedy]
    if rows:
        where = sent(np.array(rows), logits.device)
        chosen = [samplers[row] for row in rows]
        tokens.index_copy_(0, where, _drawn(logits.index_select(0, where), chosen))
    return Drawn(tokens)


def _drawn(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """One token of each row's nucleus: the fewest tokens that together reach `top_p`."""
    settings = np.array([(sampler.temperature, sampler.top_p, sampler.chance()) for sampler in samplers])
    temperature, top_p, chance = sent(settings, logits.device).unsqueeze(-1).unbind(dim=1)
    ordered, tokens = torch.softmax(logits.double() / temperature, dim=-1).sort(descending=True)
    reached = ordered.cumsum(dim=-1)
    last = (reached < top_p).sum(dim=-1, keepdim=True).clamp_(max=logits.shape[-1] - 1)
    target = chance * reached.gather(-1, last)
    place = torch.minimum((reached <= target).sum(dim=-1, keepdim=True), last)
    return tokens.gather(-1, place).squeeze(-1)
