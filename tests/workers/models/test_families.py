import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.models.config import ExpertsConfig
from workers.models.errors import CheckpointError, UnsupportedModel
from workers.models.families import read_config

pytestmark = pytest.mark.unit

# The shape of Qwen2.5-VL-3B in the flat spelling of the hub and in the nested one of transformers 5.
VISION: Mapping[str, Any] = {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
}
TEXT: Mapping[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SECTIONS = [16, 24, 24]
FLAT: Mapping[str, Any] = {
    **TEXT,
    "model_type": "qwen2_5_vl",
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": SECTIONS},
    "tie_word_embeddings": True,
    "vision_config": VISION,
}
ROPE = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": SECTIONS}
NESTED: Mapping[str, Any] = {
    "model_type": "qwen2_5_vl",
    "text_config": {**TEXT, "rope_parameters": ROPE},
    "tie_word_embeddings": True,
    "vision_config": VISION,
}

# The shape of Qwen3-VL-30B-A3B as the hub has it; without experts it is a dense model's.
VISION3: Mapping[str, Any] = {
    "depth": 27,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "in_channels": 3,
    "intermediate_size": 4304,
    "model_type": "qwen3_vl_moe",
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "out_hidden_size": 2048,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "deepstack_visual_indexes": [8, 16, 24],
}
INTERLEAVED = {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}
TEXT3: Mapping[str, Any] = {
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 262144,
    "num_attention_heads": 32,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": INTERLEAVED,
    "rope_theta": 5000000,
    "vocab_size": 151936,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
MOE: Mapping[str, Any] = {"model_type": "qwen3_vl_moe", "text_config": TEXT3, "vision_config": VISION3}


def write(folder: Path, config: Mapping[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_flat_and_nested_spellings_mean_the_same(tmp_path: Path) -> None:
    flat = read_config(write(tmp_path, FLAT))
    assert flat == read_config(write(tmp_path, NESTED))
    assert flat.text.head_dim == 128
    assert flat.text.mrope_section == (16, 24, 24)
    assert flat.text.tied_embeddings
    assert flat.vision.patch_dim == 1176
    assert flat.vision.window_units == 4
    assert flat.vision.tokens_per_second == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_type": "qwen9_vl"}, UnsupportedModel, "'qwen9_vl' is not supported; supported: qwen2_5_vl"),
        ({"model_type": None}, UnsupportedModel, "None is not supported"),
        ({"quantization_config": {"quant_method": "awq"}}, UnsupportedModel, "quantised weights"),
        ({"vision_config": None}, CheckpointError, "lacks vision_config"),
        ({"hidden_size": None}, CheckpointError, "lacks hidden_size"),
        ({"hidden_size": "2048"}, CheckpointError, "hidden_size must be a positive integer, not '2048'"),
        ({"num_hidden_layers": 0}, CheckpointError, "num_hidden_layers must be a positive integer"),
        ({"rms_norm_eps": "small"}, CheckpointError, "rms_norm_eps must be a positive number"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act = 'gelu' is not supported"),
        ({"use_sliding_window": True}, UnsupportedModel, "sliding-window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, UnsupportedModel, "yarn"),
        ({"rope_scaling": None}, CheckpointError, "lacks mrope_section"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24]}}, CheckpointError, "does not add up to 64"),
        ({"vision_config": {**VISION, "fullatt_block_indexes": 7}}, CheckpointError, "list of integers"),
    ],
)
def test_what_cannot_be_served_is_named(
    tmp_path: Path, change: Mapping[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_config(write(tmp_path, {**FLAT, **change}))


def test_qwen3vl_of_experts_and_dense(tmp_path: Path) -> None:
    moe = read_config(write(tmp_path, MOE))
    assert moe.text.experts == ExpertsConfig(count=128, chosen=8, intermediate_size=768)
    assert (moe.text.qk_norm, moe.text.qkv_bias, moe.text.mrope_interleaved) == (True, False, True)
    assert (moe.text.mrope_section, moe.text.rope_theta) == ((24, 20, 20), 5e6)
    assert (moe.vision.position_side, moe.vision.deepstack_blocks) == (48, (8, 16, 24))
    assert (moe.vision.merged_patch, moe.vision.window_units) == (32, None)
    renamed = {**TEXT3, "num_local_experts": 128, "num_experts": None}
    assert read_config(write(tmp_path, {**MOE, "text_config": renamed})) == moe
    dense = read_config(write(tmp_path, {**MOE, "model_type": "qwen3_vl"}))
    assert (dense.family, dense.text, dense.vision) == ("qwen3_vl", replace(moe.text, experts=None), moe.vision)


@pytest.mark.parametrize(
    ("text", "vision", "error", "message"),
    [
        ({"attention_bias": True}, {}, UnsupportedModel, "attention_bias = True"),
        ({"rope_scaling": {**INTERLEAVED, "mrope_interleaved": False}}, {}, UnsupportedModel, "rotary embedding"),
        ({"rope_scaling": {**INTERLEAVED, "mrope_section": [16, 24, 24]}}, {}, UnsupportedModel, "too few"),
        ({"rope_scaling": {"rope_type": "default"}}, {}, CheckpointError, "lacks mrope_section"),
        ({"decoder_sparse_step": 2}, {}, UnsupportedModel, "decoder_sparse_step = 2"),
        ({"mlp_only_layers": [3]}, {}, UnsupportedModel, "mlp_only_layers"),
        ({"norm_topk_prob": False}, {}, UnsupportedModel, "norm_topk_prob = False"),
        ({"num_experts": None}, {}, CheckpointError, "lacks num_experts"),
        ({"num_experts_per_tok": 129}, {}, CheckpointError, "129 experts a token of only 128"),
        ({"moe_intermediate_size": 1024}, {}, UnsupportedModel, "experts of 1024 by 2048 are square"),
        ({"num_hidden_layers": 3}, {}, UnsupportedModel, "3 deepstack levels need more than 3 layers"),
        ({}, {"deepstack_visual_indexes": [8, 27]}, CheckpointError, "not blocks of 27 in order"),
        ({}, {"deepstack_visual_indexes": [16, 8]}, CheckpointError, "not blocks of 27 in order"),
        ({}, {"hidden_act": "gelu"}, UnsupportedModel, "hidden_act = 'gelu'"),
    ],
)
def test_what_cannot_be_served_of_qwen3vl_is_named(
    tmp_path: Path, text: Mapping[str, Any], vision: Mapping[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_config(write(tmp_path, {**MOE, "text_config": {**TEXT3, **text}, "vision_config": {**VISION3, **vision}}))
    with pytest.raises(CheckpointError, match="lacks text_config"):
        read_config(write(tmp_path, {**MOE, "text_config": None}))


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_config(tmp_path)


@pytest.mark.parity
def test_absent_keys_mean_what_they_mean_to_transformers(tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLConfig

    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 320}
    sparse = {**sizes, "intermediate_size": 99, "rope_parameters": {"mrope_section": [8, 12, 12]}}
    complete = Qwen2_5_VLConfig(text_config=dict(sparse), vision_config={}).to_dict()
    short = {"model_type": "qwen2_5_vl", "text_config": {**sparse, "num_key_value_heads": 8}, "vision_config": {}}
    assert read_config(write(tmp_path, short)) == read_config(write(tmp_path, complete))


@pytest.mark.parity
@pytest.mark.parametrize("name", ["Qwen3VL", "Qwen3VLMoe"])
def test_absent_keys_of_qwen3vl_mean_what_they_mean_to_transformers(tmp_path: Path, name: str) -> None:
    import transformers

    sizes = {"hidden_size": 256, "num_attention_heads": 2, "num_hidden_layers": 4, "vocab_size": 320}
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20]}
    sparse = {**sizes, "intermediate_size": 99, "num_key_value_heads": 2, "rope_parameters": rope, "num_experts": 9}
    kind: Any = getattr(transformers, f"{name}Config")
    complete = kind(text_config=dict(sparse), vision_config={}).to_dict()
    short = {"model_type": kind.model_type, "text_config": sparse, "vision_config": {}}
    assert read_config(write(tmp_path, short)) == read_config(write(tmp_path, complete))
