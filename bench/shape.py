"""A model's shape as a folder that an engine can open: configuration, the bundled tokenizer, pixels, no weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from workers.models.config import ModelConfig, TextConfig, VisionConfig
from workers.models.hub import resolve
from workers.models.tokenizer import Tokenizer


def write_shape(config: ModelConfig, folder: Path, side: int) -> Path:
    """The folder, with `config` as config.json, the bundled tokenizer, and pictures of `side` x `side` pixels."""
    bundled = resolve("mini")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(bundled / name, folder / name)
    special = Tokenizer.from_folder(bundled).special
    root = {
        "model_type": config.family,
        "text_config": _text(config.text),
        "vision_config": _vision(config.vision),
        "tie_word_embeddings": config.text.tied_embeddings,
        "image_token_id": special.image_pad,
        "video_token_id": special.video_pad,
    }
    _write(folder / "config.json", root)
    area = {"shortest_edge": side * side, "longest_edge": side * side}
    patches = {"patch_size": config.vision.patch_size, "merge_size": config.vision.merge_size}
    _write(folder / "preprocessor_config.json", {"size": area, **patches})
    return folder


def _text(text: TextConfig) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": text.rope_theta, "mrope_section": text.mrope_section}
    told = {
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "max_position_embeddings": text.trained_length,
        "rms_norm_eps": text.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": text.tied_embeddings,
    }
    if text.experts is None:
        return told
    experts = text.experts
    chosen = {"num_experts": experts.count, "num_experts_per_tok": experts.chosen}
    return {**told, **chosen, "moe_intermediate_size": experts.intermediate_size}


def _vision(vision: VisionConfig) -> dict[str, Any]:
    told = {
        "depth": vision.depth,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_heads": vision.heads,
        "out_hidden_size": vision.out_hidden_size,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "spatial_merge_size": vision.merge_size,
    }
    if vision.window_size:
        full = sorted(vision.full_attention_blocks)
        rate = {"tokens_per_second": vision.tokens_per_second}
        return {**told, **rate, "window_size": vision.window_size, "fullatt_block_indexes": full}
    return {
        **told,
        "num_position_embeddings": vision.position_side**2,
        "deepstack_visual_indexes": vision.deepstack_blocks,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
