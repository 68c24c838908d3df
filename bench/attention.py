"""What attention over full memories takes a layer of the 7B shape, kept in bfloat16 and in eight bits, one GPU.

    python -m bench.attention [--json PATH]

Each figure is microseconds a call, as in bench.matrices: answers, questions and frames of several sessions, each of
which has a memory of its own in pages that lie anywhere. Calls write the new keys and values as well. Single tokens
go through FlashInfer, and through our kernel by each of some plans (`workers.attention.decoding.Plan`), which processes
of their own have compiled, and proved against float64, before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.proofs import off_by, proved
from bench.random_model import QWEN25VL_7B
from bench.timings import tell, timed
from workers.attention.flashinfer import FlashInferAttention
from workers.attention.mixed import Region
from workers.core import FLOAT8, KVStore, Part, Query, Slots, narrowed

if TYPE_CHECKING:
    from workers.attention.decoding import Plan

TEXT = QWEN25VL_7B.text
LAYERS = 4  # so many planes that no cache holds them
SESSIONS, KEYS, PAGE = 64, 4368, 16
ROOM = KEYS + 272  # slots of a session
SINGLES = (1, 8, 16, 32, 64)  # sequences of one token
OTHERS = ((1, 16), (1, 32), (1, 260), (2, 260), (8, 260))  # sequences, tokens each
PROCESSORS, SHARED_BYTES, WARPS_ON_ONE, QUERY_BYTES = 132, 226 << 10, 8, 7 << 10  # 8 warps' registers
BEST = 2  # plans tried with other numbers
LEAST = (1, 2, 4, 8, 16)
TILES = (  # keys, warps, stages, keys asked for early
    (16, 1, 9, 32), (32, 1, 5, 32), (32, 1, 7, 32), (32, 1, 7, 0), (32, 1, 9, 32), (32, 2, 7, 64), (64, 2, 5, 64),
    (64, 2, 7, 64), (64, 4, 5, 64), (64, 4, 5, 0), (64, 4, 7, 128), (128, 4, 5, 128),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proof:
    """What a plan's outputs are off by, or why there are none."""

    plan: Plan
    eight: bool
    error: float | None
    why: str


def main() -> None:
    tell("python -m bench.attention", __doc__ or "", measured())


def measured() -> Iterator[tuple[str, float]]:
    """Each batch in both kinds of memory."""
    proofs = list(proved(prove, ((tile, eight) for tile in TILES for eight in (False, True))))
    exact = memory(SESSIONS * ROOM)
    for name, store in (("bfloat16", exact), ("fp8", eight_bits(exact))):
        plans = [proof.plan for proof in proofs if proof.eight == (name == "fp8")]
        attention = FlashInferAttention(store, unturned, TEXT.heads)
        for count in SINGLES:
            queries = sequences(count, 1)
            theirs = attention.paged(count, count, count * 2 * ROOM, spare=0)
            yield f"{count} x 1 {name} FlashInfer", taken(theirs, queries)
            yield from ours(f"{count} x 1 {name}", store, queries, plans)
        for count, tokens in OTHERS:
            queries = sequences(count, tokens)
            yield f"{count} x {tokens} {name}", taken(planned(attention, queries), queries)


def ours(name: str, store: KVStore, queries: tuple[Query, ...], plans: Sequence[Plan]) -> Iterator[tuple[str, float]]:
    """Single tokens by our kernel: as it is, then by each plan, the best with other numbers as well."""
    from workers.attention.decoding import Decoding

    def by(plan: Plan | None) -> float:
        return taken(Decoding(store, TEXT.heads, len(queries), len(queries) * 2 * ROOM, plan), queries)

    yield f"{name} ours", by(None)
    found = {plan: by(plan) for plan in plans}
    for plan in sorted(found, key=found.__getitem__)[:BEST]:
        fewer = [replace(plan, programs=plan.programs - PROCESSORS)] if plan.programs > PROCESSORS else []
        others = {*(replace(plan, least=least) for least in LEAST), *fewer} - found.keys()
        found |= {other: by(other) for other in others}
    order = sorted(found, key=found.__getitem__)
    yield f"{name} ours at best", found[order[0]]
    for plan in order:
        yield f"    {name} {plan}", found[plan]


def taken(fixed: Region, queries: tuple[Query, ...]) -> float:
    """Microseconds a layer."""
    if not fixed.plan(queries):
        raise ValueError("these queries fit no graph")
    q, k, v = tokens_of(queries[-1].stop)
    return timed([partial(fixed, layer, q, k, v) for layer in range(LAYERS)])


def prove(wanted: tuple[tuple[int, int, int, int], bool]) -> Proof:
    """In a process of its own: a few sequences, run twice, beside float64."""
    from workers.attention.decoding import Decoding, Plan

    (keys, warps, stages, early), eight = wanted
    size = QUERY_BYTES + (stages - 1) // 2 * keys * 2 * TEXT.head_dim * (1 if eight else 2)
    room = min(SHARED_BYTES // size, WARPS_ON_ONE // warps)
    plan = Plan(keys, warps, stages, PROCESSORS * room, least=4, early=early)
    torch.manual_seed(0)
    store = memory(5 * 720)
    store = eight_bits(store) if eight else store
    queries = sequences(5, 1, keys=704, room=720)
    q, k, v = tokens_of(5)
    fixed = Decoding(store, TEXT.heads, 5, 5 * 720, plan)
    fixed.plan(queries)

    def expected() -> Tensor:
        return torch.stack([seen(store, query, q[query.start]) for query in queries])

    return Proof(plan, eight, *off_by(lambda: fixed(0, q, k, v), expected))


def seen(store: KVStore, query: Query, q: Tensor) -> Tensor:
    """What one token sees of the first layer, in float64; its own key and value have been written."""
    slots = torch.from_numpy(np.concatenate([*(part.slots for part in query.parts), query.slots], axis=-1)[0, 0])
    keys, values = (plane[0, 0].double()[slots.long().to(q.device)] for plane in (store.keys, store.values))
    keys, values = (each.repeat_interleave(len(q) // each.shape[1], dim=1) for each in (keys, values))
    scores = torch.einsum("hd,nhd->hn", q.double(), keys) / q.shape[-1] ** 0.5
    return torch.einsum("hn,nhd->hd", scores.softmax(-1), values)


def memory(slots: int) -> KVStore:
    """Keys and values of all layers, drawn at random."""
    size = (LAYERS, 1, slots, TEXT.kv_heads, TEXT.head_dim)
    keys, values = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return KVStore(keys, values, torch.zeros(size[:3], device="cuda"))


def eight_bits(store: KVStore) -> KVStore:
    keys, values = (narrowed(plane, FLOAT8) for plane in (store.keys, store.values))
    return replace(store, keys=keys, values=values, wide=store.keys.dtype)


def tokens_of(rows: int) -> Sequence[Tensor]:
    """Queries, keys and values [rows, heads, dim], side by side as a product makes them."""
    heads = TEXT.heads + 2 * TEXT.kv_heads
    every = torch.randn(rows, heads, TEXT.head_dim, device="cuda", dtype=torch.bfloat16)
    return every.tensor_split((TEXT.heads, TEXT.heads + TEXT.kv_heads), dim=1)


def sequences(count: int, tokens: int, keys: int = KEYS, room: int = ROOM) -> tuple[Query, ...]:
    """So many sequences of new tokens, each after the keys of its own session."""
    chance, queries = np.random.default_rng(0), []
    for number in range(count):
        pages = chance.permutation(keys // PAGE).astype(np.int32) + number * (room // PAGE)
        places = np.arange(PAGE, dtype=np.int32)
        slots: Slots = pages[:, None] * PAGE + places
        memory = Part(slots.reshape(1, 1, -1))
        own = number * room + keys + np.arange(tokens, dtype=np.int32)
        rows = number * tokens, (number + 1) * tokens
        queries.append(Query(*rows, np.zeros((3, tokens), np.int64), own[None, None], (memory,)))
    return tuple(queries)


def planned(attention: FlashInferAttention, queries: tuple[Query, ...]) -> Region:
    """Attention as a graph holds it, for just these."""
    rows, slots = queries[-1].stop, len(queries) * 2 * ROOM
    fixed = attention.fixed(len(queries), rows, max(rows, slots), spare=0)
    if not fixed.plan(queries):
        raise ValueError("these queries fit no graph")
    return fixed


def unturned(vectors: Tensor, by: Tensor) -> Tensor:
    return vectors


if __name__ == "__main__":
    main()
