"""FlashInfer's paged wrapper, spelt out in torch: what our use of it counts on, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.attention.flashinfer import FlashInferAttention, MakeWrapper
from workers.core import Attend, KVStore, Query, Slots, Turn, indexed


class PagedReference:
    """Stands in for `flashinfer.BatchPrefillWithPagedKVCacheWrapper`, and refuses what that would refuse."""

    def __init__(self, workspace: Tensor, **options: Any) -> None:
        self._fixed = len(options["qo_indptr_buf"]) - 1 if options.get("use_cuda_graph") else None
        self._room = len(options["paged_kv_indices_buf"]) if options.get("use_cuda_graph") else None
        self._rows = 0  # of the largest plan, which a fixed one has to begin with
        self.device = workspace.device

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
        max_token_per_sequence: int,
        seq_lens: Tensor,
    ) -> None:
        batch = len(qo_indptr) - 1
        self._rows = self._rows or int(qo_indptr[-1])
        assert seq_lens.tolist() == paged_kv_indptr.diff().tolist()
        assert max_token_per_sequence == qo_indptr.diff().max()
        assert self._fixed in (None, batch)
        assert self._room is None or (len(paged_kv_indices) <= self._room and qo_indptr[-1] <= self._rows)
        assert {t.device.type for t in (qo_indptr, paged_kv_indptr, paged_kv_last_page_len)} == {"cpu"}
        assert {t.dtype for t in (qo_indptr, paged_kv_indptr, paged_kv_indices)} == {torch.int32}
        assert paged_kv_last_page_len.tolist() == [page_size] * batch == [1] * batch
        assert paged_kv_indptr[-1] == len(paged_kv_indices)
        self._starts, self._kv_starts = qo_indptr.tolist(), paged_kv_indptr.tolist()
        self._indices = paged_kv_indices if self._fixed is None else paged_kv_indices.clone()
        self._heads, self._kv_heads, self._dim, self._causal = num_qo_heads, num_kv_heads, head_dim_qk, causal
        self._dtype, self._stored = q_data_type, kv_data_type

    def run(
        self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor], *, out: Tensor, return_lse: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        keys, values = paged_kv_cache
        assert keys.shape[1:] == values.shape[1:] == (1, self._kv_heads, self._dim)
        assert q.shape == out.shape == (len(q), self._heads, self._dim)
        # Where nothing is captured a fixed one runs on plans that are no larger than the rows; FlashInfer is replayed.
        assert len(q) == self._starts[-1] if self._fixed is None else self._starts[-1] <= len(q) <= self._rows
        assert q.dtype == out.dtype == self._dtype
        assert keys.dtype == values.dtype == self._stored
        assert out.is_contiguous()
        assert q.stride(-1) == 1
        lse = torch.empty(q.shape[:2], device=q.device)
        for row in range(len(self._starts) - 1):
            rows = slice(self._starts[row], self._starts[row + 1])
            if rows.start == rows.stop:
                continue
            slots = self._indices[self._kv_starts[row] : self._kv_starts[row + 1]].long()
            k, v = (indexed(x)[slots, 0].view(x.dtype).double() for x in (keys, values))
            out[rows], lse[rows] = self._one(q[rows], k, v)
        return (out, lse) if return_lse else out

    def _one(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and their log-sum-exp to the base of 2."""
        k, v = (x.repeat_interleave(self._heads // self._kv_heads, dim=1) for x in (k, v))
        scores = torch.einsum("nhd,mhd->nhm", q.double(), k) / math.sqrt(self._dim)
        if self._causal:
            hidden = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).triu(1 + len(k) - len(q))
            scores = scores.masked_fill(hidden.unsqueeze(1), -math.inf)
        out = torch.einsum("nhm,mhd->nhd", scores.softmax(-1), v)
        return out.to(q.dtype), scores.logsumexp(-1).float() / math.log(2)


def paged(heads: int, store: KVStore, turn: Turn, wrapper: MakeWrapper | None = None) -> FlashInferAttention:
    """FlashInfer's attention on a GPU, or that of a `wrapper` in its place; elsewhere that of the wrapper above."""
    return FlashInferAttention(store, turn, heads, wrapper if store.keys.is_cuda else PagedReference)


class Launched:
    """FlashInfer's own for a graph that is not captured: run on the rows that are planned, as it insists on then."""

    def __init__(self, workspace: Tensor, **options: Any) -> None:
        import flashinfer

        self._wrapper, self._rows = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, **options), 0

    def plan(self, qo_indptr: Tensor, *given: Any, **named: Any) -> None:
        self._rows = int(qo_indptr[-1])
        self._wrapper.plan(qo_indptr, *given, **named)

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor], *, out: Tensor, **named: Any) -> Any:
        told = self._wrapper.run(q[: self._rows], paged_kv_cache, out=out[: self._rows], **named)
        return told if named else out


class Uncaptured:
    """The same attention, but never part of a graph."""

    def __init__(self, heads: int, store: KVStore, turn: Turn) -> None:
        self._attention = paged(heads, store, turn)

    def plan(self, queries: tuple[Query, ...]) -> Attend:
        return self._attention.plan(queries)


def slots_in(pages: NDArray[np.int32], filled: Sequence[int], page_size: int) -> Slots:
    """The slots [layers, groups, n] of pages [layers, groups, m], so many of each, from its first on."""
    places = np.arange(page_size, dtype=np.int32)
    table = pages[..., None] * page_size + places
    return table[..., places < np.array(filled)[:, None]]
