"""The reference implementation of attention, in plain torch, on any device.

Keys that lie side by side are read in place. Others are joined first, in the order in which they were written, so
that what is computed depends on the tokens alone and never on the pages that they happen to lie in; only a single
query, as in decoding, reads a few runs where they are and merges what it saw. Query heads that share a KV head are
folded into its rows: each key is read once for all of them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from workers.attention.merge import Seen, merged
from workers.core import KVStore, Query, Run, Turn, indexed, narrowed, of_plane, sent

_RUNS_IN_PLACE = 4


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Seen:
    """What q [heads, n, dim] see of k and v [heads, m, dim]; `bias` [n or 1, m] is added to the scores."""
    if q.device.type != "cpu":
        return _attend_exact(q, k, v, bias)
    mask = None if bias is None else bias.expand(1, 1, q.shape[1], -1)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = flash(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), 0.0, False, attn_mask=mask)
    return Seen(out.squeeze(0), lse.squeeze(0))


def _attend_exact(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Seen:
    scores = torch.matmul(q, k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    lse = scores.logsumexp(dim=-1)
    return Seen(torch.matmul(torch.exp(scores - lse.unsqueeze(-1)).to(v.dtype), v), lse)


class Keys(NamedTuple):
    """Runs of one plane that are read together: a single one in place, several joined first."""

    runs: tuple[Run, ...]
    turn: int
    biased: bool


class PlainAttention:
    """Attention over the pages of one pool."""

    def __init__(self, store: KVStore, turn: Turn) -> None:
        self.store = store
        self.turn = turn

    def plan(self, queries: tuple[Query, ...]) -> PlannedAttention:
        """Attention for one forward pass over these queries."""
        return PlannedAttention(self, queries)


class PlannedAttention:
    """Attention of one forward pass: what depends on pages alone is worked out once for all layers where it can be."""

    def __init__(self, attention: PlainAttention, queries: tuple[Query, ...]) -> None:
        self._store, self._turn = attention.store, attention.turn
        self._layers, self._groups, _, self._heads, _ = self._store.keys.shape
        self._queries = queries
        self._device = self._store.keys.device
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._targets = [sent(query.slots, self._device).long() for query in queries]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Writes k and v [tokens, kv_heads, dim], then gives what q [tokens, heads, dim] see (undefined if unread)."""
        k, v = (narrowed(fresh, self._store.keys.dtype).to(q.dtype) for fresh in (k, v))
        out = q.new_empty(q.shape)
        q_heads = q.shape[1] // self._groups
        last = layer == self._layers - 1
        for query, targets in zip(self._queries, self._targets, strict=True):
            rows = slice(query.start, query.stop)
            for group in range(self._groups):
                kv = slice(group * self._heads, (group + 1) * self._heads)
                write(self._store, layer, group, of_plane(targets, layer, group), k[rows, kv], v[rows, kv])
                if query.wanted or not last:
                    heads = slice(group * q_heads, (group + 1) * q_heads)
                    out[rows, heads] = self._see(query, layer, group, q[rows, heads], k[rows, kv], v[rows, kv])
        return out

    def _see(self, query: Query, layer: int, group: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Outputs [n, q heads, dim] of one query in one plane."""
        n, heads, dim = q.shape
        fold = partial(folded, kv_heads=self._heads)
        turned = {0: fold(q)}
        seen = []
        for keys in self._visible(query, layer, group):
            if keys.turn not in turned:
                turned[keys.turn] = fold(self._turn(q, torch.full((n,), keys.turn, device=q.device)))
            seen.append(self._attend(turned[keys.turn], keys, layer, group))
        if n > 1:
            seen.append(attend(turned[0], k.transpose(0, 1), v.transpose(0, 1), self._causal(n, heads // self._heads)))
        out = merged(seen).out.view(self._heads, n, -1, dim)
        return out.transpose(0, 1).reshape(n, heads, dim)

    def _attend(self, q: Tensor, keys: Keys, layer: int, group: int) -> Seen:
        k = _joined(self._store.keys[layer, group], keys.runs).to(q.dtype).transpose(0, 1)
        v = _joined(self._store.values[layer, group], keys.runs).to(q.dtype).transpose(0, 1)
        if not keys.biased:
            return attend(q, k, v)
        bias = _joined(self._store.bias[layer, group], keys.runs)
        out, lse = attend(q, k, v, bias.unsqueeze(0))
        return Seen(out, lse.masked_fill(bias.amax() == -math.inf, -math.inf))

    def _visible(self, query: Query, layer: int, group: int) -> tuple[Keys, ...]:
        """The query's keys in one plane; a single new token's own slot is among them, since it needs no mask."""
        keys: list[Keys] = []
        first = int(of_plane(query.slots, layer, group)[0])
        own = Run(first, first + 1) if query.tokens == 1 else None
        for part in query.parts:
            runs = part.runs(layer, group)
            if own is not None and part.turn == 0 and not part.biased and runs[-1].stop == own.start:
                runs = (*runs[:-1], Run(runs[-1].start, own.stop))
                own = None
            apart = query.tokens == 1 and len(runs) <= _RUNS_IN_PLACE
            keys += [Keys(each, part.turn, part.biased) for each in (((run,) for run in runs) if apart else (runs,))]
        if own is not None:
            keys.append(Keys((own,), 0, False))
        return tuple(keys)

    def _causal(self, n: int, folded: int) -> Tensor:
        """Scores' bias [n * folded, n]: each token sees those before it and itself."""
        if (n, folded) not in self._masks:
            mask = torch.full((n, n), -math.inf, device=self._device).triu_(1)
            self._masks[n, folded] = mask.repeat_interleave(folded, dim=0)
        return self._masks[n, folded]


def write(store: KVStore, layer: int, group: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Keys and values [n, kv_heads, dim] of one plane to `slots` [n]."""
    for plane, fresh in ((store.keys, keys), (store.values, values)):
        indexed(plane[layer, group]).index_copy_(0, slots, indexed(narrowed(fresh, plane.dtype)))


def _joined(plane: Tensor, runs: tuple[Run, ...]) -> Tensor:
    """The slots of a plane [slots, ...] that lie in runs, in order."""
    if len(runs) == 1:
        return plane[runs[0].start : runs[0].stop]
    return torch.cat([indexed(plane)[start:stop] for start, stop in runs]).view(plane.dtype)


def folded(q: Tensor, kv_heads: int) -> Tensor:
    """Queries [n, heads, dim] as [kv_heads, n * (heads / kv_heads), dim]."""
    n, _, dim = q.shape
    return q.view(n, kv_heads, -1, dim).transpose(0, 1).reshape(kv_heads, -1, dim)
