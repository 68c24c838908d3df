"""What attention over full memories takes a layer of the 7B shape, kept in bfloat16 and in eight bits, one GPU.

    python -m bench.attention [--json PATH]

Each figure is microseconds a call, as in bench.matrices: answers, questions and frames of several sessions, each of
which has a memory of its own in pages that lie anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.random_model import QWEN25VL_7B
from bench.timings import tell, timed
from workers.attention.flashinfer import FixedAttention, FlashInferAttention
from workers.core import FLOAT8, KVStore, Part, Query, Slots, narrowed

TEXT = QWEN25VL_7B.text
LAYERS = 4  # so many planes that no cache holds them
SESSIONS, KEYS, PAGE = 64, 4368, 16
ROOM = KEYS + 272  # slots of a session
BATCHES = ((1, 1), (16, 1), (32, 1), (64, 1), (1, 16), (1, 32), (1, 260), (2, 260), (8, 260))  # sequences, tokens each


def main() -> None:
    tell("python -m bench.attention", __doc__ or "", measured())


def measured() -> Iterator[tuple[str, float]]:
    """Each batch in both kinds of memory."""
    size = (LAYERS, 1, SESSIONS * ROOM, TEXT.kv_heads, TEXT.head_dim)
    keys, values = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    bias = torch.zeros(size[:3], device="cuda")
    for name in ("bfloat16", "fp8"):
        store = KVStore(keys, values, bias)
        if name == "fp8":
            keys, values = narrowed(keys, FLOAT8), narrowed(values, FLOAT8)
            store = replace(store, keys=keys, values=values, wide=torch.bfloat16)
        attention = FlashInferAttention(store, unturned, TEXT.heads)
        for count, tokens in BATCHES:
            fixed = planned(attention, sequences(count, tokens))
            q = torch.randn(count * tokens, TEXT.heads, TEXT.head_dim, device="cuda", dtype=torch.bfloat16)
            yield f"{count} x {tokens} {name}", timed([partial(fixed.see, layer, q) for layer in range(LAYERS)])


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


def planned(attention: FlashInferAttention, queries: tuple[Query, ...]) -> FixedAttention:
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
