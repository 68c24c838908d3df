"""A model of the Qwen2.5-VL-7B shape with random weights, made where it runs: what speed takes, without a download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from workers.models.chat import Chat
from workers.models.checkpoint import Checkpoint
from workers.models.config import ModelConfig, TextConfig, VisionConfig
from workers.models.drawn import draw
from workers.models.families import FAMILIES
from workers.models.hub import resolve
from workers.models.model import empty_model
from workers.models.pixels import PixelFormat
from workers.models.tokenizer import Tokenizer

QWEN25VL_7B = ModelConfig(
    family="qwen2_5_vl",
    text=TextConfig(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        layers=28,
        heads=28,
        kv_heads=4,
        head_dim=128,
        norm_eps=1e-6,
        rope_theta=1e6,
        mrope_section=(16, 24, 24),
        trained_length=128_000,
        qkv_bias=True,
        qk_norm=False,
        tied_embeddings=False,
    ),
    vision=VisionConfig(
        depth=32,
        hidden_size=1280,
        intermediate_size=3420,
        heads=16,
        out_hidden_size=3584,
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
        window_size=112,
        full_attention_blocks=frozenset({7, 15, 23, 31}),
        tokens_per_second=2.0,
    ),
)

QWEN3VL_8B = ModelConfig(
    family="qwen3_vl",
    text=TextConfig(
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=12_288,
        layers=36,
        heads=32,
        kv_heads=8,
        head_dim=128,
        norm_eps=1e-6,
        rope_theta=5e6,
        mrope_section=(24, 20, 20),
        trained_length=262_144,
        qkv_bias=False,
        qk_norm=True,
        tied_embeddings=False,
        mrope_interleaved=True,
    ),
    vision=VisionConfig(
        depth=27,
        hidden_size=1152,
        intermediate_size=4304,
        heads=16,
        out_hidden_size=4096,
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        window_size=0,
        full_attention_blocks=frozenset(range(27)),
        tokens_per_second=2.0,
        position_side=48,
        deepstack_blocks=(8, 16, 24),
    ),
)

TINY = replace(  # for a CPU, to see that what is measured on a GPU can be: pictures of 112 pixels are enough for it
    QWEN25VL_7B,
    text=replace(
        QWEN25VL_7B.text, vocab_size=2100, hidden_size=64, intermediate_size=96, layers=2, heads=2, kv_heads=1
    ),
    vision=replace(
        QWEN25VL_7B.vision,
        depth=2,
        hidden_size=32,
        intermediate_size=36,
        heads=2,
        out_hidden_size=64,
        full_attention_blocks=frozenset({1}),
    ),
)
SHAPES: Mapping[str, ModelConfig] = MappingProxyType(
    {"qwen2.5-vl-7b": QWEN25VL_7B, "qwen3-vl-8b": QWEN3VL_8B, "tiny": TINY}
)


def random_checkpoint(
    device: str, dtype: torch.dtype, config: ModelConfig = QWEN25VL_7B, side: int = 448
) -> Checkpoint:
    """The model with the bundled tokenizer and pictures of `side` x `side` pixels; no answer ends by itself."""
    folder, family = resolve("mini"), FAMILIES[config.family]
    tokenizer = Tokenizer.from_folder(folder)
    model = empty_model(config, torch.device(device), dtype)
    draw(model, tokenizer.special.stops)
    area = side * side
    half = (0.5, 0.5, 0.5)
    return Checkpoint(
        folder=Path(folder),
        family=family,
        config=config,
        model=model,
        tokenizer=tokenizer,
        chat=Chat(tokenizer, config.vision.tokens_per_second, timestamps=family.capabilities.timestamps),
        pixels=PixelFormat(config.vision.patch_size, config.vision.merge_size, area // 4, area, half, half, side),
    )
