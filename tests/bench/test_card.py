"""The GPU's arms on a model so small that a CPU does them: that they end, and that what they count adds up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.card import Card, Load
from bench.random_model import QWEN25VL_7B, random_checkpoint
from workers.models.checkpoint import Checkpoint

pytestmark = pytest.mark.unit

LOAD = Load(
    seconds=0.3,
    sessions=2,
    pictures=2,
    pictures_a_step=2,
    answers=2,
    decoding=(1, 2),
    answer_tokens=8,
    quiet=2,
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    text = replace(
        QWEN25VL_7B.text, vocab_size=2100, hidden_size=64, intermediate_size=96, layers=2, heads=2, kv_heads=1
    )
    vision = replace(
        QWEN25VL_7B.vision,
        depth=2,
        hidden_size=32,
        intermediate_size=36,
        heads=2,
        out_hidden_size=64,
        full_attention_blocks=frozenset({1}),
    )
    return random_checkpoint("cpu", torch.float32, replace(QWEN25VL_7B, text=text, vision=vision), side=112)


def test_every_arm_gives_its_figures(checkpoint: Checkpoint) -> None:
    figures = Card(checkpoint, LOAD).measure()
    assert figures["ingest_keys"] > 2 * 16
    for name in ("ingest_full_fps", "loaded_fps", "itl_under_load_ms", "decode2_ms", "frame_quiet_ms"):
        assert figures[name] > 0
    assert figures["loaded_share"] == pytest.approx(figures["loaded_fps"] / figures["ingest_full_fps"], abs=0.01)


def test_a_profile_is_written_where_one_is_wanted(checkpoint: Checkpoint) -> None:
    tables: list[str] = []
    Card(checkpoint, LOAD, tables.append).ingest()
    assert any("aten::" in table for table in tables)
