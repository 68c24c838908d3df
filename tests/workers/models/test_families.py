import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

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
