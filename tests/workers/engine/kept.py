"""What a policy's ranking keeps, noted, and given to another engine in place of what its own would keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workers.memory.compaction import best
from workers.memory.policies import POLICIES
from workers.memory.policy import Candidates, Contents, Keep, Policy, Rank

Sets = list[Tensor]
"""Of each choice, bool [layers, groups, candidates]: whether a candidate survives."""


class Choices:
    """Wraps a ranking. `own` are the sets that it would keep; where sets are `given`, those are kept instead."""

    def __init__(self, rank: Rank, given: Sequence[Tensor] | None = None) -> None:
        self.own: Sets = []
        self._rank, self._given = rank, None if given is None else iter(given)

    def __call__(self, candidates: Candidates) -> Tensor:
        scores = self._rank(candidates)
        kept = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        kept.scatter_(-1, best(candidates, scores), True)
        self.own.append(kept.cpu())
        if self._given is None:
            return scores
        return next(self._given).to(scores.device, scores.dtype)


class Following:
    """A policy that decides as another does, by a ranking of ours."""

    def __init__(self, policy: Policy, ranking: Rank) -> None:
        self.name, self._policy, self._ranking = policy.name, policy, ranking

    def keep(self, contents: Contents, pages: int) -> Keep:
        keep = self._policy.keep(contents, pages)
        return keep if keep.rank is None else replace(keep, rank=self._ranking)


def policies(ranking: Rank) -> Mapping[str, Callable[[], Policy]]:
    """All policies, each with this ranking in place of its own, if it has one."""
    return {name: lambda make=make: Following(make(), ranking) for name, make in POLICIES.items()}  # type: ignore[misc]


def overlap(ours: Sets, theirs: Sets, held: Sequence[int] | None = None) -> float:
    """The mean over choices and planes of the share of survivors that survive in both; both keep equally many.

    With what memories `held` after each choice, the share of all of it: what no choice was about is the same in both.
    """
    shares = []
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        survivors = other.sum(-1)
        apart = survivors - (one & other).sum(-1)
        shares.append(1 - (apart / (survivors if held is None else held[place])).mean())
    return float(torch.stack(shares).mean())
