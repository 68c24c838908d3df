"""A model of the Qwen2.5-VL-7B shape with random weights, made where it runs: what speed takes, without a download."""

from __future__ import annotations

from pathlib import Path

import torch

from workers.models.chat import Chat
from workers.models.checkpoint import Checkpoint
from workers.models.config import ModelConfig, TextConfig, VisionConfig
from workers.models.families import QWEN25VL
from workers.models.hub import resolve
from workers.models.model import VisionLanguageModel, empty_model
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


def random_checkpoint(
    device: str, dtype: torch.dtype, config: ModelConfig = QWEN25VL_7B, side: int = 448
) -> Checkpoint:
    """The model with the bundled tokenizer and pictures of `side` x `side` pixels; no answer ends by itself."""
    folder = resolve("mini")
    tokenizer = Tokenizer.from_folder(folder)
    model = empty_model(config, torch.device(device), dtype)
    _draw(model, sorted(tokenizer.special.stops))
    area = side * side
    half = (0.5, 0.5, 0.5)
    return Checkpoint(
        folder=Path(folder),
        family=QWEN25VL,
        config=config,
        model=model,
        tokenizer=tokenizer,
        chat=Chat(tokenizer, config.vision.tokens_per_second),
        pixels=PixelFormat(config.vision.patch_size, config.vision.merge_size, area // 4, area, half, half, side),
    )


@torch.no_grad()
def _draw(model: VisionLanguageModel, stops: list[int]) -> None:
    """Weights that keep the size of what passes through; the logits of `stops` are 0, far below the largest."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    if model.decoder.lm_head is not None:
        model.decoder.lm_head.weight[stops] = 0
