"""Models and streams on which an engine is held against the reference, and against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.attention.paged import PagedReference
from tests.workers.engine.rig import Rig
from workers.attention.flashinfer import FlashInferAttention
from workers.core import Attention, KVStore, Turn
from workers.engine.batch import Work
from workers.engine.settings import EngineSettings
from workers.engine.watch import Unmoved
from workers.memory.compaction import Gathering
from workers.memory.trunk import Trunk
from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.models.hub import resolve

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
# As many query heads to each KV head, and as wide, as in Qwen2.5-VL-7B.
SHAPE = {
    "hidden_size": 1792,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [16, 24, 24]},
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A model by its folder, with the budget in tokens at which its sessions soon have to forget."""

    folder: Path
    budget: int
    frames: int

    def opened(self, device: str, dtype: torch.dtype) -> Checkpoint:
        return open_checkpoint(self.folder, device, dtype)

    def reference(self) -> Checkpoint:
        """The weights in half precision, as they are served, and everything that is computed with them in full."""
        checkpoint = open_checkpoint(self.folder, "cpu", torch.bfloat16)
        checkpoint.model.float()
        return checkpoint


def mini() -> Judged:
    """The bundled model, whose frames are 64 tokens."""
    return Judged(resolve("mini"), budget=768, frames=14)


def shaped(make: Callable[..., Any]) -> Judged:
    """Random weights, frames of 16 tokens."""
    return Judged(make(seed=1, text=SHAPE).folder, budget=256, frames=20)


def paged(heads: int) -> Callable[[KVStore, Turn], Attention]:
    """FlashInfer's attention; without a GPU its wrapper is spelt out in torch."""
    return lambda store, turn: FlashInferAttention(store, turn, heads, None if store.keys.is_cuda else PagedReference)


def rig(checkpoint: Checkpoint, *, as_on_card: bool = True, groups: int = 2, **make: Any) -> Rig:
    """An engine of so many head groups; `as_on_card`: with the attention and the pace that it has on a GPU."""
    if as_on_card:
        make = {"make_attention": paged(checkpoint.config.text.heads), "ahead": True, **make}
    settings = EngineSettings(pool_tokens=6_144, step_tokens=512, step_pictures=8, head_groups=groups, check_books=True)
    return Rig(checkpoint, settings, make)


@dataclass
class Hearing(Unmoved):
    """A watch that keeps the logits of every row that somebody wanted, and what trunks hold after each choice."""

    rows: list[Tensor] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    chosen: bool = False

    def passed(self, works: Sequence[Work], logits: Tensor) -> None:
        self.rows += logits.float().cpu()

    def gathered(self, jobs: Sequence[Gathering], told: Sequence[Tensor]) -> None:
        self.chosen = True

    def compacted(self, trunks: Sequence[Trunk]) -> None:
        if self.chosen:
            self.held.append(sum(trunk.tokens for trunk in trunks))
        self.chosen = False
