"""Attention of single new tokens over one pool, in Triton: as fast as their keys and values can be read.

A tile is what one sequence's new token sees by one KV head, a unit a block of its keys. Units are dealt out to the
programs in equal runs, so that all processors read until the end (stream-K, arXiv:2301.03598), each keeping the sum of
what it has weighed so far (FlashAttention, arXiv:2205.14135). A tile that several programs have had a part in is summed
up by the last of them, always in the same order: the same batch always gives the same. Which runs there are hangs on
all lengths, so in another batch a sequence's outputs are the same but for rounding.

The program that has a tile's beginning also starts it with the token's own key and value, and puts them into the pool.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from workers.core import FLOAT8, FLOAT8_MOST, KVStore, Query, joined, staged
from workers.launches import ahead, hopper, launched, wait

_NARROWEST, _WIDEST = 32, 128
_HEADER = 2  # units in all, programs that have some
_COLUMNS = 4  # of a sequence: its first unit, where its slots begin, how many there are, the slot of its own token
_SEARCHED = 128
_FEWEST_ROWS = 16  # of a product
_SUMMED = 128  # values of parts that a thread has at a time


@dataclass(frozen=True, slots=True)
class Plan:
    """How keys are read: blocks of `keys` of them, by at most so many programs of so many warps.

    `stages` blocks are on their way at a time. No program has fewer than `least` blocks where others could do without
    it, and the first `early` keys of each are asked for before the kernel in front has ended.
    """

    keys: int
    warps: int
    stages: int
    programs: int
    least: int
    early: int


# How an H100 reads fastest for up to so many sequences, in sixteen bits and in eight.
PLANS = (
    (4, Plan(32, 1, 5, 660, least=8, early=32), Plan(32, 1, 7, 924, least=4, early=0)),
    (sys.maxsize, Plan(32, 1, 7, 528, least=8, early=32), Plan(32, 1, 5, 1056, least=4, early=32)),
)


def planned(sequences: int, *, eight: bool) -> Plan:
    """How to read for up to so many sequences, keys and values being in eight bits or in sixteen."""
    wide, narrow = next(plans for most, *plans in PLANS if sequences <= most)
    return narrow if eight else wide


def serves(store: KVStore) -> bool:
    """Whether this module is to attend over a pool: on Hopper, one group of heads whose size is a power of two."""
    groups, dim = store.keys.shape[1], store.keys.shape[-1]
    return hopper(store.keys.device) and groups == 1 and _NARROWEST <= dim <= _WIDEST and dim & (dim - 1) == 0


class Decoding:
    """Attention for a batch of single tokens whose tensors stay where they are, so that a graph can hold it."""

    def __init__(self, store: KVStore, heads: int, sequences: int, slots: int, plan: Plan | None = None) -> None:
        """For up to so many sequences, of `heads` query heads, that see up to `slots` stored keys in all."""
        self._store, self._heads, self._sequences, self._slots = store, heads, sequences, slots
        self._how = plan or planned(sequences, eight=store.keys.dtype == FLOAT8)
        device, (kv_heads, dim) = store.keys.device, store.keys.shape[3:]
        self._first = _HEADER + _COLUMNS * sequences
        self._work = torch.zeros(self._first + max(slots, 1), dtype=torch.int32, device=device)
        self._arrived = torch.zeros(sequences * kv_heads, dtype=torch.int32, device=device)
        # Zeros, not whatever was there: rows that no sequence has must still hold finite values.
        self._out = torch.zeros(sequences, heads, dim, dtype=store.dtype, device=device)

    def begin(self, rows: int) -> None:
        """As Region.begin: sequences of the plan before are no longer there."""
        self.plan(())

    def plan(self, queries: Sequence[Query]) -> bool:
        """Prepares the next run; False if it cannot hold these.

        It can if they are few and short enough, single tokens that see nothing but stored keys, in the same slots of
        every plane.
        """
        parts = [part for query in queries for part in query.parts]
        single = all(query.stop == row + 1 for row, query in enumerate(queries))
        if not single or len(queries) > self._sequences or any(query.apart for query in queries):
            return False
        seen = np.array([sum([part.tokens for part in query.parts]) for query in queries], dtype=np.int64)
        slots, own = joined([part.slots for part in parts]), joined([query.slots for query in queries])
        if seen.sum() > self._slots or slots.shape[:2] != (1, 1) or own.shape[:2] != (1, 1):
            return False
        work = np.concatenate([self._assigned(seen, own[0, 0]), slots[0, 0]])
        self._work[: len(work)].copy_(staged(work, self._work.device), non_blocking=True)
        return True

    def _assigned(self, seen: NDArray[np.int64], own: NDArray[np.int32]) -> NDArray[np.int32]:
        """What precedes the slots: the header, then each column of all sequences; absent ones begin after the end."""
        blocks = np.maximum(-(-seen // self._how.keys), 1) * self._store.keys.shape[3]
        units = int(blocks.sum())
        assigned = np.zeros(self._first, dtype=np.int32)
        assigned[:_HEADER] = units, min(self._how.programs, -(-units // self._how.least))
        columns = assigned[_HEADER:].reshape(_COLUMNS, self._sequences)
        columns[0] = units
        for column, values in zip(columns, (blocks.cumsum() - blocks, seen.cumsum() - seen, seen, own), strict=True):
            column[: len(seen)] = values
        return assigned

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
        """Writes k and v [rows, kv_heads, dim], then gives what q [rows, heads, dim] see, in `out` if that is given.

        Each tensor's heads lie side by side. Rows that no sequence has write nothing, and hold what they did.
        """
        store, how = self._store, self._how
        out = self._out if out is None else out
        kv_heads, dim = store.keys.shape[3:]
        group = self._heads // kv_heads
        padded = triton.next_power_of_2(group)
        sums = q.new_empty(how.programs, 2, group, dim, dtype=torch.float32)
        weights = q.new_empty(how.programs, 2, 2, group, dtype=torch.float32)
        _attend[(how.programs,)](
            q, k, v, store.keys[layer, 0], store.values[layer, 0], out, sums, weights, self._arrived, self._work,
            q.stride(0), k.stride(0), v.stride(0), self._sequences, math.log2(math.e) / math.sqrt(dim),
            HEADS=kv_heads, GROUP=group, PADDED=padded, ROWS=max(_FEWEST_ROWS, padded), DIM=dim, BLOCK=how.keys,
            PARTS=max(_SUMMED * 32 * how.warps // (padded * dim), 1), EARLY=how.early,
            MOST=FLOAT8_MOST if store.keys.dtype == FLOAT8 else 0.0,
            SEARCHED=max(triton.next_power_of_2(self._sequences), _SEARCHED),
            num_warps=how.warps, num_stages=how.stages, **launched(q),
        )  # fmt: skip
        return out


@triton.jit(do_not_specialize=["sequences"])  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    q, k, v, keys, values, out, sums, weights, arrived, work, q_stride, k_stride, v_stride, sequences, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, EARLY: tl.constexpr, MOST: tl.constexpr, SEARCHED: tl.constexpr,
    CHAINED: tl.constexpr
):  # fmt: skip
    # Eight bits are read in pairs, since operands of the tensor cores are put in order by words of sixteen, and
    # computed in the half precision that holds all of them.
    WIDTH: tl.constexpr = DIM // 2 if MOST > 0 else DIM
    key_words, value_words = keys, values
    if MOST > 0:
        key_words = keys.to(tl.pointer_type(tl.int16))
        value_words = values.to(tl.pointer_type(tl.int16))
    program = tl.program_id(0)
    units, programs = tl.load(work), tl.maximum(tl.load(work + 1), 1)
    begins = work + 2
    starts, counts, places, table = (
        begins + sequences, begins + 2 * sequences, begins + 3 * sequences, begins + 4 * sequences
    )  # fmt: skip
    start = tl.minimum(program, programs) * units // programs
    stop = tl.minimum(program + 1, programs) * units // programs
    opening = _tile(begins, counts, sequences, start, HEADS, BLOCK, SEARCHED)
    if CHAINED:
        if EARLY > 0:
            if start < stop:
                _ask(keys, values, table, begins, starts, counts, opening, start, HEADS, DIM, BLOCK, EARLY)
        wait()
    end = opening
    if start < stop:
        end = _tile(begins, counts, sequences, stop - 1, HEADS, BLOCK, SEARCHED) + 1
    row, dim, word, key = tl.arange(0, ROWS), tl.arange(0, DIM), tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    there = (row < GROUP)[:, None]
    within = row[:, None] * DIM + dim[None, :]
    for tile in tl.range(opening, end, num_stages=1):
        sequence, head = tile // HEADS, tile % HEADS
        count, slots = tl.load(counts + sequence), table + tl.load(starts + sequence)
        blocks = tl.maximum((count + BLOCK - 1) // BLOCK, 1)
        begin = tl.load(begins + sequence) + head * blocks
        query = tl.load(q + sequence * q_stride + head * GROUP * DIM + within, mask=there, other=0.0)
        # The token's own key and value.
        own = begin >= start
        fresh_key = _stored(k + sequence * k_stride + head * DIM + dim, keys, MOST)
        fresh_value = _stored(v + sequence * v_stride + head * DIM + dim, values, MOST)
        place = tl.load(places + sequence).to(tl.int64) * (HEADS * DIM) + head * DIM + dim
        tl.store(keys + place, fresh_key, mask=own)
        tl.store(values + place, fresh_value, mask=own)
        first_score = tl.sum(query.to(tl.float32) * fresh_key.to(tl.float32)[None, :], axis=1) * scale
        first_score = tl.where(own, first_score, float("-inf"))
        top = first_score
        total = tl.zeros((ROWS, DIM), dtype=tl.float32) + tl.where(own, fresh_value.to(tl.float32), 0.0)[None, :]
        weight = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
        if MOST > 0:
            even_query, odd_query = tl.split(tl.reshape(query.to(tl.float16), (ROWS, DIM // 2, 2)))
            even_total, odd_total = tl.split(tl.reshape(total, (ROWS, DIM // 2, 2)))
        for block in range(tl.maximum(start - begin, 0), tl.minimum(stop - begin, (count + BLOCK - 1) // BLOCK)):
            number = block * BLOCK + key
            slot = tl.load(slots + tl.minimum(number, count - 1)).to(tl.int64)
            from_pool = slot[:, None] * (HEADS * WIDTH) + (head * WIDTH + word)[None, :]
            seen, meant = tl.load(key_words + from_pool), tl.load(value_words + from_pool)
            if MOST > 0:
                score = tl.dot(odd_query, _odd(seen).T, tl.dot(even_query, _even(seen).T))
            else:
                score = tl.dot(query, seen.T)
            score = tl.where((number < count)[None, :], score * scale, float("-inf"))
            higher = tl.maximum(top, tl.max(score, axis=1))
            fading, share = tl.exp2(top - higher), tl.exp2(score - higher[:, None])
            weight = weight * fading[:, None] + share
            if MOST > 0:
                even_total = tl.dot(share.to(tl.float16), _even(meant), even_total * fading[:, None])
                odd_total = tl.dot(share.to(tl.float16), _odd(meant), odd_total * fading[:, None])
            else:
                total = tl.dot(share.to(meant.dtype), meant, total * fading[:, None])
            top = higher
        if MOST > 0:
            total = tl.interleave(even_total, odd_total)
        weights_sum = tl.sum(weight, axis=1) + tl.exp2(first_score - top)
        target = out + (sequence * HEADS + head) * GROUP * DIM
        first = ((begin + 1) * programs - 1) // units
        last = ((begin + blocks) * programs - 1) // units
        if first == last:
            tl.store(target + within, (total / weights_sum[:, None]).to(out.dtype.element_ty), mask=there)
        else:
            part = 2 * program + (program == first)
            tl.store(sums + part * (GROUP * DIM) + within, total, mask=there)
            tl.store(weights + part * (2 * GROUP) + row, top, mask=row < GROUP)
            tl.store(weights + part * (2 * GROUP) + GROUP + row, weights_sum, mask=row < GROUP)
            tl.debug_barrier()
            if tl.atomic_add(arrived + tile, 1) == last - first:
                _sum_up(target, sums, weights, first, last, GROUP, PADDED, DIM, PARTS)
                tl.store(arrived + tile, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _stored(places, pool, MOST: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is read there, as the pool holds it."""
    fresh = tl.load(places)
    if MOST > 0:
        fresh = tl.minimum(tl.maximum(fresh.to(tl.float32), -MOST), MOST)
    return fresh.to(pool.dtype.element_ty)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_up(  # type: ignore[no-untyped-def]
    target, sums, weights, first, last,
    GROUP: tl.constexpr, PADDED: tl.constexpr, DIM: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Outputs from the parts of programs `first` to `last`, each weighed by its highest score."""
    row, dim, each = tl.arange(0, PADDED), tl.arange(0, DIM), tl.arange(0, PARTS)
    inside = row < GROUP
    top, weight = tl.where(inside, float("-inf"), 0.0), tl.where(inside, 0.0, 1.0)
    total = tl.zeros((PADDED, DIM), dtype=tl.float32)
    for start in tl.range(first, last + 1, PARTS, num_stages=1):
        number = start + each
        there = (number <= last)[:, None] & inside[None, :]
        part = 2 * number + (number == first)
        about = weights + part[:, None] * (2 * GROUP) + row[None, :]
        tops = tl.load(about, mask=there, other=float("-inf"), cache_modifier=".cg")
        mine = tl.load(about + GROUP, mask=there, other=0.0, cache_modifier=".cg")
        place = part[:, None, None] * (GROUP * DIM) + row[None, :, None] * DIM + dim[None, None, :]
        parts = tl.load(sums + place, mask=there[:, :, None], other=0.0, cache_modifier=".cg")
        higher = tl.maximum(top, tl.max(tops, axis=0))
        fading, shares = tl.exp2(top - higher), tl.exp2(tops - higher[None, :])
        weight = weight * fading + tl.sum(mine * shares, axis=0)
        total = total * fading[:, None] + tl.sum(parts * shares[:, :, None], axis=0)
        top = higher
    place = row[:, None] * DIM + dim[None, :]
    tl.store(target + place, (total / weight[:, None]).to(target.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _even(pairs):  # type: ignore[no-untyped-def]
    """Of pairs of eight bits the first."""
    return pairs.to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)


@triton.jit
def _odd(pairs):  # type: ignore[no-untyped-def]
    """Of pairs of eight bits the second."""
    return (pairs >> 8).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)


@triton.jit  # type: ignore[untyped-decorator]
def _tile(begins, counts, sequences, unit, HEADS: tl.constexpr, BLOCK: tl.constexpr, SEARCHED: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tile that a unit is of."""
    number = tl.arange(0, SEARCHED)
    begin = tl.load(begins + number, mask=number < sequences, other=2**31 - 1)
    sequence = tl.maximum(tl.sum((begin <= unit).to(tl.int32)) - 1, 0)
    blocks = tl.maximum((tl.load(counts + sequence) + BLOCK - 1) // BLOCK, 1)
    return sequence * HEADS + (unit - tl.load(begins + sequence)) // blocks


@triton.jit  # type: ignore[untyped-decorator]
def _ask(  # type: ignore[no-untyped-def]
    keys, values, table, begins, starts, counts, tile, unit,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    """Brings the keys and values of a tile from one unit on into the cache, each thread some of its own."""
    sequence, head = tile // HEADS, tile % HEADS
    count = tl.load(counts + sequence)
    block = unit - tl.load(begins + sequence) - head * tl.maximum((count + BLOCK - 1) // BLOCK, 1)
    number = tl.maximum(tl.minimum(block * BLOCK + tl.arange(0, EARLY), count - 1), 0)
    slot = tl.load(table + tl.load(starts + sequence) + number).to(tl.int64)
    place = slot * (HEADS * DIM) + head * DIM
    size = DIM * (keys.dtype.element_ty.primitive_bitwidth // 8)
    ahead(keys + place, size)
    ahead(values + place, size)
