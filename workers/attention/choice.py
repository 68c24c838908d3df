"""Which implementation of attention serves a pool."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from workers.attention.plain import PlainAttention
from workers.core import Attention, KVStore, Turn

_FLASHINFER_HEADS = (64, 128, 256)


def attention_for(store: KVStore, turn: Turn, heads: int) -> Attention:
    """FlashInfer's kernels where they exist and fit a model of so many query heads, the reference elsewhere."""
    keys = store.keys
    half = store.dtype in (torch.bfloat16, torch.float16)
    if keys.is_cuda and half and keys.shape[-1] in _FLASHINFER_HEADS and find_spec("flashinfer") is not None:
        from workers.attention.flashinfer import FlashInferAttention

        return FlashInferAttention(store, turn, heads)
    return PlainAttention(store, turn)
