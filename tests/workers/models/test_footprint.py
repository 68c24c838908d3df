"""The table of docs/models.md, computed again."""

from pathlib import Path
from typing import Any

import pytest

from workers.models.config import ModelConfig, Section
from workers.models.families import QWEN25VL, read_config
from workers.models.footprint import kv_bytes_per_token, parameters, streams

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


def config_of(name: str) -> ModelConfig:
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


def test_the_bundled_models_size_is_documented() -> None:
    count = parameters(read_config(ROOT / "models" / "mini"))
    assert f"| mini | `mini` (bundled) | {count / 1e6:.1f} M |" in (ROOT / "docs" / "models.md").read_text()


def test_memory_that_the_weights_fill_holds_no_stream() -> None:
    assert streams(config_of("Qwen2.5-VL 7B"), 16 * GIB, 4096) == 0
