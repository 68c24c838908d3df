"""Attention for passes of single tokens beside longer sequences, by the kernel that suits each, for graphs to hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from workers.core import Query, singles

SLOTS_EACH = 16_384  # that a sequence sees on the average, at most


class Region(Protocol):
    """Attention for some rows of a pass, planned anew before each run."""

    def begin(self, rows: int) -> None:
        """Prepares a run over so many rows of nobody's, which is about to be captured."""
        ...

    def plan(self, queries: Sequence[Query]) -> bool:
        """Prepares the next run, of which there may be none; False if it cannot hold these."""
        ...

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
        """As workers.core.Attend, for these rows alone; into `out` if that is given."""
        ...


class MixedAttention:
    """Single tokens in the `first` rows, whatever is longer in so many `rows` behind them."""

    def __init__(self, alone: Region | None, first: int, others: Region, rows: int, out: Tensor) -> None:
        """`out` [first + rows, heads, dim]: holds something finite, and is whoever's turn it is to run.

        It is to be captured before another like it is made of the same regions.
        """
        self._alone, self._first, self._others, self._out = alone, first, others, out
        others.begin(rows)
        if alone is not None:
            alone.begin(first)

    def plan(self, queries: Sequence[Query]) -> bool:
        """Prepares the next run over these, single tokens before others; False if it cannot hold them."""
        first = singles(queries)
        if not self._others.plan(queries[first:]):
            return False
        return self._alone.plan(queries[:first]) if self._alone is not None else not first

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As workers.core.Attend, over all rows; those that no sequence has hold something finite."""
        first, out = self._first, self._out
        if self._alone is not None:
            self._alone(layer, q[:first], k[:first], v[:first], out[:first])
        self._others(layer, q[first:], k[first:], v[first:], out[first:])
        return out
