"""Attention by FlashInfer's paged kernels (arXiv:2501.01005), in half precision on Hopper and later.

A page of FlashInfer's is one slot of ours: blocks end inside pages, and a table of slots has no holes. Whatever a
sequence sees as it was stored is one table, its own new tokens last, so that a causal mask is all it takes. Parts that
stand lower than they were stored, and those with biases, are attended apart and merged by their log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from workers.attention.merge import Seen, merged
from workers.attention.mixed import SLOTS_EACH, MixedAttention, Region
from workers.attention.plain import attend, folded, write
from workers.core import Fence, KVStore, Query, Slots, Turn, indexed, joined, of_plane, sent, staged

_WORKSPACE_BYTES = 256 << 20
_FEW = 64  # queries of one sequence
_SINGLES = 128  # sequences of one token in a mixed pass
_MIXED_ROWS = 4096  # of them
_MIXED_ROWS_OLDER = 1088  # by the older kernel, whose parts then fill the workspace
_LN2 = math.log(2)

Rows = slice | Tensor


class MakeWrapper(Protocol):
    """`flashinfer.BatchPrefillWithPagedKVCacheWrapper`, or what stands in for it."""

    def __call__(self, workspace: Tensor, **options: Any) -> Any: ...


class Planner:
    """One of FlashInfer's wrappers. It is planned again only once the device has read the plan before."""

    def __init__(self, wrapper: Any, store: KVStore, heads: int) -> None:
        self._wrapper, self._store, self._heads = wrapper, store, heads
        self._device = store.keys.device
        self._read = Fence(self._device)
        self._indices = torch.empty(0)
        self._tables: Tensor | None = None

    def plan(self, lengths: Sequence[int], seen: Sequence[int], table: Slots, *, causal: bool) -> None:
        """Sequences of so many queries each, of which each sees so many slots of `table`, one after the other."""
        self._read.wait()
        self._tables = None if table.shape[:2] == (1, 1) else sent(table, self._device)
        self._indices = sent(np.ascontiguousarray(table[0, 0]), self._device)
        self._wrapper.plan(
            self._starts(lengths),
            self._starts(seen),
            self._indices,
            staged(np.ones(len(lengths), dtype=np.int32), self._device),
            self._heads,
            self._store.keys.shape[3],
            self._store.keys.shape[4],
            1,
            causal=causal,
            q_data_type=self._store.dtype,
            kv_data_type=self._store.keys.dtype,
            max_token_per_sequence=max(lengths),
            seq_lens=staged(np.array(seen, dtype=np.int32), self._device),
        )
        self._read.mark()

    def run(self, layer: int, group: int, q: Tensor, out: Tensor | None = None) -> Tensor:
        """Outputs of queries [n, heads, dim] in one plane, in `out` if that is given."""
        out = q.new_empty(q.shape) if out is None else out
        return cast(Tensor, self._wrapper.run(q, self._keys_and_values(layer, group), out=out))

    def see(self, layer: int, group: int, q: Tensor) -> Seen:
        """Outputs [n, heads, dim] and their weight, lse [n, heads]."""
        keys_and_values = self._keys_and_values(layer, group)
        out, lse = self._wrapper.run(q, keys_and_values, out=q.new_empty(q.shape), return_lse=True)
        return Seen(out, lse * _LN2)

    def _starts(self, lengths: Sequence[int]) -> Tensor:
        return staged(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), self._device)

    def _keys_and_values(self, layer: int, group: int) -> tuple[Tensor, Tensor]:
        if self._tables is not None:
            self._indices.copy_(self._tables[layer, group])
        return self._store.keys[layer, group].unsqueeze(1), self._store.values[layer, group].unsqueeze(1)


class FlashInferAttention:
    """Attention over the pages of one pool, by one kernel for few queries of a sequence and another for many.

    The first has all heads that share a key in one tile and divides long tables among the processors; the second is
    faster where a sequence's queries fill its tiles, and reads each key anew for every head.
    """

    def __init__(self, store: KVStore, turn: Turn, heads: int, make_wrapper: MakeWrapper | None = None) -> None:
        """`heads`: query heads in all. `make_wrapper`: in place of FlashInfer's own."""
        self.store, self.turn = store, turn
        self._make_wrapper = make_wrapper or _flashinfer_wrapper()
        self.heads = heads // store.keys.shape[1]
        self._workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=store.keys.device)
        # Small heads gain little from kernels that take minutes to build, and those read no 8-bit keys.
        self._many = "auto" if store.keys.shape[-1] >= 128 and store.wide is None else "fa2"
        self._planners: dict[tuple[bool, int], Planner] = {}
        self._singles: dict[int, Region] = {}
        self._others: Region | None = None
        self._mixed_outs: Tensor | None = None

    @property
    def mixed_rows(self) -> int:
        """The most rows that sequences of several tokens can have in a mixed pass."""
        if self.store.keys.shape[1] > 1:
            return 0
        return _MIXED_ROWS if self._many == "auto" else _MIXED_ROWS_OLDER

    def plan(self, queries: tuple[Query, ...]) -> PlannedAttention:
        """Attention for one forward pass over these queries."""
        return PlannedAttention(self, queries)

    def fixed(self, sequences: int, rows: int, slots: int, spare: int) -> Region:
        """Attention for up to `rows` tokens of up to `sequences`, that see up to `slots` slots, planned over and over.

        What a smaller batch leaves unused is written to slot `spare`, if anywhere. Single tokens have a kernel of our
        own on Hopper.
        """
        if rows == sequences and self.store.keys.is_cuda:
            from workers.attention import decoding

            if decoding.serves(self.store):
                return decoding.Decoding(self.store, self.heads, sequences, slots)
        return self.paged(sequences, rows, slots, spare)

    def paged(self, sequences: int, rows: int, slots: int, spare: int) -> FixedAttention:
        """The same by FlashInfer."""
        device = self.store.keys.device
        wrapper = self._make_wrapper(
            self._workspace,
            use_cuda_graph=True,
            qo_indptr_buf=torch.zeros(sequences + 1, dtype=torch.int32, device=device),
            paged_kv_indptr_buf=torch.zeros(sequences + 1, dtype=torch.int32, device=device),
            paged_kv_indices_buf=torch.zeros(slots, dtype=torch.int32, device=device),
            paged_kv_last_page_len_buf=torch.zeros(sequences, dtype=torch.int32, device=device),
            backend="fa2" if rows <= max(sequences, _FEW) else self._many,
        )
        return FixedAttention(Planner(wrapper, self.store, self.heads), self, sequences, rows, slots, spare)

    def mixed(self, singles: int, rows: int, others: int, most: int, spare: int) -> MixedAttention:
        """Attention for up to `singles` (128) sequences of one token in the first rows, and others in `rows` behind.

        Of any there are `others` sequences and `most` rows at most, the same each time: all share one plan for them,
        and one place for what comes out, since one pass runs at a time. Each is to be captured before the next is made.
        """
        if self._others is None:
            self._others = self.fixed(others, most, others * SLOTS_EACH, spare)
        if singles and singles not in self._singles:
            self._singles[singles] = self.fixed(singles, singles, singles * SLOTS_EACH, spare)
        if self._mixed_outs is None:
            shape = _SINGLES + most, self.heads, self.store.keys.shape[-1]
            self._mixed_outs = self.store.keys.new_zeros(shape, dtype=self.store.dtype)
        return MixedAttention(
            self._singles.get(singles), singles, self._others, rows, self._mixed_outs[: singles + rows]
        )

    def planner(self, few: bool, place: int) -> Planner:
        """The planner for the pass's `place`-th part of a kind."""
        if (few, place) not in self._planners:
            wrapper = self._make_wrapper(self._workspace, backend="fa2" if few else self._many)
            self._planners[few, place] = Planner(wrapper, self.store, self.heads)
        return self._planners[few, place]


@dataclass(frozen=True, slots=True)
class _Sight:
    """Queries at `rows` that see what their planner was planned for; `by`: how far they are turned for it."""

    planner: Planner
    rows: Rows
    wanted: bool
    by: Tensor | None = None

    def all(self, count: int) -> bool:
        """Whether these are all of a batch's `count` rows."""
        return isinstance(self.rows, slice) and self.rows == slice(0, count)


@dataclass(frozen=True, slots=True)
class _Biased:
    """One query's part with biases: its slots [planes..., n] on the device."""

    rows: slice
    slots: Tensor
    turn: int


class PlannedAttention:
    """Attention of one forward pass."""

    def __init__(self, attention: FlashInferAttention, queries: tuple[Query, ...]) -> None:
        self._attention, self._store, self._turn = attention, attention.store, attention.turn
        self._layers, self._groups = self._store.keys.shape[:2]
        self._device = self._store.keys.device
        self._targets = sent(joined([query.slots for query in queries]).astype(np.int64), self._device)
        self._sights = tuple(self._stored(queries))
        self._turned = tuple(self._moved(queries))
        self._biased = tuple(self._weighed(queries))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Writes k and v [tokens, kv_heads, dim], then gives what q [tokens, heads, dim] see (undefined if unread)."""
        store_all(self._store, layer, self._targets, k, v)
        last = layer == self._layers - 1
        sights = [sight for sight in self._sights if sight.wanted or not last]
        if len(sights) == self._groups == 1 and not self._apart and sights[0].all(len(q)):
            return sights[0].planner.run(layer, 0, q)
        out = q.new_empty(q.shape)
        for group in range(self._groups):
            heads = slice(group * self._attention.heads, (group + 1) * self._attention.heads)
            self._see(layer, group, q[:, heads], out[:, heads], sights)
        return out

    @property
    def _apart(self) -> bool:
        return bool(self._turned or self._biased)

    def _see(self, layer: int, group: int, q: Tensor, out: Tensor, sights: Sequence[_Sight]) -> None:
        """Fills in the outputs of one plane."""
        if not self._apart:
            for sight in sights:
                out[sight.rows] = sight.planner.run(layer, group, q[sight.rows])
            return
        lse = torch.full(q.shape[:2], -math.inf, device=self._device)
        for sight in sights:
            out[sight.rows], lse[sight.rows] = sight.planner.see(layer, group, q[sight.rows])
        for rows, seen in self._seen_apart(layer, group, q):
            out[rows], lse[rows] = merged([Seen(out[rows], lse[rows]), seen])

    def _seen_apart(self, layer: int, group: int, q: Tensor) -> Iterator[tuple[Rows, Seen]]:
        for sight in self._turned:
            if sight.by is not None:
                turned = self._turn(q[sight.rows], sight.by)
                yield sight.rows, sight.planner.see(layer, group, turned)
        for part in self._biased:
            yield part.rows, self._see_biased(part, layer, group, q[part.rows])

    def _see_biased(self, part: _Biased, layer: int, group: int, q: Tensor) -> Seen:
        n, heads = q.shape[:2]
        if part.turn:
            q = self._turn(q, torch.full((n,), part.turn, device=self._device))
        slots = of_plane(part.slots, layer, group)
        planes = (self._store.keys, self._store.values)
        k, v = (indexed(x)[layer, group, slots].view(x.dtype).to(q.dtype).transpose(0, 1) for x in planes)
        bias = self._store.bias[layer, group, slots]
        seen = attend(folded(q, len(k)), k, v, bias.unsqueeze(0))
        out, lse = (x.view(len(k), n, -1, *x.shape[2:]).transpose(0, 1).reshape(n, heads, *x.shape[2:]) for x in seen)
        return Seen(out, torch.where(bias.amax() == -math.inf, -math.inf, lse))

    def _stored(self, queries: tuple[Query, ...]) -> Iterator[_Sight]:
        """What is seen as it was stored, each sequence's own tokens last."""
        for few in (True, False):
            alike = [query for query in queries if (query.tokens <= _FEW) == few]
            if alike:
                planner = self._attention.planner(few, 0)
                lengths = [query.tokens for query in alike]
                planner.plan(lengths, *_stored(alike), causal=True)
                yield _Sight(planner, _rows(alike, self._device), any(query.wanted for query in alike))

    def _moved(self, queries: tuple[Query, ...]) -> Iterator[_Sight]:
        """Each sequence's first turned part together, then the second, and so on."""
        parts = [(query, [part for part in query.parts if part.turn and not part.biased]) for query in queries]
        for place in range(max((len(mine) for _, mine in parts), default=0)):
            alike = [(query, mine[place]) for query, mine in parts if len(mine) > place]
            lengths = [query.tokens for query, _ in alike]
            planner = self._attention.planner(False, 1 + place)
            tables = [part.slots for _, part in alike]
            planner.plan(lengths, [part.tokens for _, part in alike], joined(tables), causal=False)
            by = np.repeat([part.turn for _, part in alike], lengths)
            yield _Sight(planner, _rows([query for query, _ in alike], self._device), True, sent(by, self._device))

    def _weighed(self, queries: tuple[Query, ...]) -> Iterator[_Biased]:
        for query in queries:
            for part in query.parts:
                if part.biased:
                    slots = sent(part.slots.astype(np.int64), self._device)
                    yield _Biased(slice(query.start, query.stop), slots, part.turn)


class FixedAttention:
    """Attention for a batch whose tensors stay where they are, so that a graph can hold it."""

    def __init__(
        self, planner: Planner, attention: FlashInferAttention, sequences: int, rows: int, slots: int, spare: int
    ) -> None:
        store = self._store = attention.store
        self._planner, self._sequences, self._rows, self._slots, self._spare = planner, sequences, rows, slots, spare
        groups, device = store.keys.shape[1], store.keys.device
        self._targets = torch.full((1, 1, rows), spare, dtype=torch.int64, device=device)
        # Zeros, not whatever was there: rows that no sequence has must still hold finite values.
        self._outs = torch.zeros(
            (groups, rows, attention.heads, store.keys.shape[-1]), dtype=store.dtype, device=device
        )
        self.begin(rows)  # the first plan says how large any may become

    def begin(self, rows: int) -> None:
        """As Region.begin: FlashInfer is to have planned as many rows as it is run on, but not when it is replayed."""
        self._plan([rows], [rows], np.full((1, 1, rows), self._spare, dtype=np.int32))
        self._targets.fill_(self._spare)

    def plan(self, queries: Sequence[Query]) -> bool:
        """Prepares the next run; False if it cannot hold these.

        It can if they are few and short enough and see nothing but stored keys, in the same slots of every plane.
        """
        lengths = [query.tokens for query in queries]
        if len(queries) > self._sequences or sum(lengths) > self._rows or any(query.apart for query in queries):
            return False
        seen, table = _stored(queries)
        if table.shape[-1] > self._slots or table.shape[:2] != (1, 1):
            return False
        if not queries:
            self.begin(1)
            return True
        self._plan(lengths, seen, table)
        targets = np.full((1, 1, self._rows), self._spare)
        targets[:, :, : sum(lengths)] = joined([query.slots for query in queries])
        self._targets.copy_(sent(targets, self._targets.device), non_blocking=True)
        return True

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
        """As PlannedAttention, over all rows, or the first of them; those that no sequence has hold something finite.

        `out` may be where it is to go, if there is one group of heads.
        """
        store_all(self._store, layer, self._targets[..., : len(k)], k, v)
        into = [each[: len(q)] for each in self._outs] if out is None else [out]
        queries = q.chunk(len(into), dim=1)
        outs = [self._planner.run(layer, group, part, into[group]) for group, part in enumerate(queries)]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)

    def _plan(self, lengths: list[int], seen: list[int], table: Slots) -> None:
        """Sequences that are not there have no queries and see nothing."""
        absent = [0] * (self._sequences - len(lengths))
        self._planner.plan(lengths + absent, seen + absent, table, causal=True)


def store_all(store: KVStore, layer: int, targets: Tensor, k: Tensor, v: Tensor) -> None:
    """Keys and values [n, kv_heads, dim] to slots `targets` [layers or 1, groups or 1, n] of one layer."""
    for group, (keys, values) in enumerate(zip(*(x.chunk(store.keys.shape[1], dim=1) for x in (k, v)), strict=True)):
        slots = of_plane(targets, layer, group)
        if keys.is_cuda:
            from workers.attention import kernels

            kernels.store(store.keys[layer, group], store.values[layer, group], slots, keys, values)
        else:
            write(store, layer, group, slots, keys, values)


def _flashinfer_wrapper() -> MakeWrapper:
    import flashinfer

    wrapper: MakeWrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper
    return wrapper


def _stored(queries: Sequence[Query]) -> tuple[list[int], Slots]:
    """How many slots each query sees as they were stored, its own last; and all of them, one after the other."""
    seen, tables = [], []
    for query in queries:
        mine = [*(part.slots for part in query.parts if not part.turn and not part.biased), query.slots]
        seen.append(sum([table.shape[-1] for table in mine]))
        tables += mine
    return seen, joined(tables)


def _rows(queries: Sequence[Query], device: torch.device) -> Rows:
    """Where queries stand in the batch: a slice if they follow each other."""
    if all(before.stop == after.start for before, after in pairwise(queries)):
        return slice(queries[0].start, queries[-1].stop)
    return sent(np.concatenate([np.arange(query.start, query.stop) for query in queries]), device)
