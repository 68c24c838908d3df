"""The table of docs/models.md, computed again."""

from pathlib import Path
from typing import Any

import pytest

from workers.models.config import ModelConfig, Section
from workers.models.families import QWEN3VL, QWEN3VL_MOE, QWEN25VL, read_config
from workers.models.footprint import kv_bytes_per_token, parameters, streams, weight_bytes

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
GIB = 1024**3
# Hidden size, intermediate size, layers, heads, KV heads, vocabulary, tied head, the vision tower's intermediate size.
SHAPES = {
    "Qwen2.5-VL 3B": (2048, 11008, 36, 16, 2, 151_936, True, 3420),
    "Qwen2.5-VL 7B": (3584, 18944, 28, 28, 4, 152_064, False, 3420),
    "Qwen2.5-VL 32B": (5120, 27648, 64, 40, 8, 152_064, False, 3456),
    "Qwen2.5-VL 72B": (8192, 29568, 80, 64, 8, 152_064, False, 3456),
}
# Hidden size, intermediate size, layers, heads, KV heads, tied head, the vision tower's depth, hidden and intermediate
# size; experts, those a token goes through, and their intermediate size.
SHAPES3 = {
    "Qwen3-VL 2B": (2048, 6144, 28, 16, 8, True, (24, 1024, 4096), None),
    "Qwen3-VL 4B": (2560, 9728, 36, 32, 8, True, (24, 1024, 4096), None),
    "Qwen3-VL 8B": (4096, 12288, 36, 32, 8, False, (27, 1152, 4304), None),
    "Qwen3-VL 32B": (5120, 25600, 64, 64, 8, False, (27, 1152, 4304), None),
    "Qwen3-VL 30B-A3B": (2048, 6144, 48, 32, 4, False, (27, 1152, 4304), (128, 8, 768)),
}


def config_of(name: str) -> ModelConfig:
    return qwen3vl_of(name) if name in SHAPES3 else qwen25vl_of(name)


def qwen3vl_of(name: str) -> ModelConfig:
    hidden, intermediate, layers, heads, kv_heads, tied, (depth, width, vision_intermediate), experts = SHAPES3[name]
    text: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "vocab_size": 151_936,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
    }
    if experts:
        text |= dict(zip(("num_experts", "num_experts_per_tok", "moe_intermediate_size"), experts, strict=True))
    vision = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": vision_intermediate,
        "out_hidden_size": hidden,
        "deepstack_visual_indexes": [8, 16, 24] if depth == 27 else [5, 11, 17],
    }
    root = Section("config", {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied})
    return (QWEN3VL_MOE if experts else QWEN3VL).parse(root)


def qwen25vl_of(name: str) -> ModelConfig:
    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied, vision_intermediate = SHAPES[name]
    vision: dict[str, Any] = {
        "hidden_size": 1280,
        "intermediate_size": vision_intermediate,
        "out_hidden_size": hidden,
        "tokens_per_second": 2,
    }
    text = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    }
    return QWEN25VL.parse(Section("config", {**text, "vision_config": vision}))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen2.5-VL 3B", 3_754_622_976),
        ("Qwen2.5-VL 7B", 8_292_166_656),
        ("Qwen2.5-VL 32B", 33_452_718_336),
        ("Qwen2.5-VL 72B", 73_410_777_344),
        ("Qwen3-VL 2B", 2_127_532_032),
        ("Qwen3-VL 4B", 4_437_815_808),
        ("Qwen3-VL 8B", 8_767_123_696),
        ("Qwen3-VL 32B", 33_357_390_064),
        ("Qwen3-VL 30B-A3B", 31_070_754_032),
    ],
)
def test_the_documented_row_is_what_the_formula_gives(name: str, published: int) -> None:
    config, kv = config_of(name), kv_bytes_per_token(config_of(name).text)
    assert parameters(config) == published
    fits = [streams(config, memory * GIB, 4096) for memory in (24, 48, 80)]
    row = f"| {name} | {published * 2 / GIB:.1f} GiB | {kv // 1024} KiB | {4096 * kv // 1024**2:,} MiB | "
    text = (ROOT / "docs" / "models.md").read_text()
    assert row + " | ".join(map(str, fits)) + " |" in text
    assert f"| {published / 1e9:.2f} B |" in text


@pytest.mark.parametrize("name", [*SHAPES, *SHAPES3])
def test_the_documented_row_of_weights_in_eight_bits(name: str) -> None:
    config = config_of(name)
    assert weight_bytes(config) == 2 * parameters(config)
    fits = [streams(config, memory * GIB, 4096, "fp8") for memory in (24, 48, 80)]
    row = f"| {name} | {weight_bytes(config, 'fp8') / GIB:.1f} GiB | "
    assert row + " | ".join(map(str, fits)) + " |" in (ROOT / "docs" / "models.md").read_text()


def test_the_bundled_models_size_is_documented() -> None:
    count = parameters(read_config(ROOT / "models" / "mini"))
    assert f"| mini | `mini` (bundled) | {count / 1e6:.1f} M |" in (ROOT / "docs" / "models.md").read_text()


def test_memory_that_the_weights_fill_holds_no_stream() -> None:
    assert streams(config_of("Qwen2.5-VL 7B"), 16 * GIB, 4096) == 0
