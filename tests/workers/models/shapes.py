"""The smallest models of each family, for tests that need no weights of their own."""

from dataclasses import replace

from bench.random_model import QWEN25VL_7B
from workers.models.config import ExpertsConfig

QWEN25VL = replace(
    QWEN25VL_7B,
    text=replace(
        QWEN25VL_7B.text,
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        rope_theta=1e4,
        mrope_section=(1, 1, 2),
        trained_length=512,
        tied_embeddings=True,
    ),
    vision=replace(
        QWEN25VL_7B.vision,
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        heads=2,
        out_hidden_size=32,
        patch_size=2,
        window_size=8,
        full_attention_blocks=frozenset({1}),
    ),
)
QWEN3VL = replace(
    QWEN25VL,
    family="qwen3_vl",
    text=replace(QWEN25VL.text, mrope_section=(2, 1, 1), qkv_bias=False, qk_norm=True, mrope_interleaved=True),
    vision=replace(QWEN25VL.vision, window_size=0, position_side=3, deepstack_blocks=(0,)),
)
EXPERTS = replace(
    QWEN3VL, family="qwen3_vl_moe", text=replace(QWEN3VL.text, experts=ExpertsConfig(4, chosen=2, intermediate_size=24))
)
