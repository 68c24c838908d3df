"""Attention over several parts as one: outputs weighed by their log-sum-exp (FlashAttention, arXiv:2205.14135)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Seen(NamedTuple):
    """What queries saw of some keys: outputs [heads, n, head_dim] and lse float32 [heads, n].

    `lse` is the logarithm of the sum of the exponentials of the scores: the weight of these keys among others.
    """

    out: Tensor
    lse: Tensor


def merged(parts: Sequence[Seen]) -> Seen:
    """What the queries see of all parts together; parts whose keys all have bias -inf weigh nothing."""
    whole = parts[0]
    for part in parts[1:]:
        lse = torch.logaddexp(whole.lse, part.lse)
        share = torch.exp(part.lse - lse).nan_to_num_(0.0).unsqueeze(-1).to(whole.out.dtype)
        whole = Seen(torch.lerp(whole.out, part.out, share), lse)
    return whole
