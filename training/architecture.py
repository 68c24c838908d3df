"""The shape of the bundled model, written as the configuration files of a Hugging Face folder."""

import json
from pathlib import Path
from typing import Any

from training.vocabulary import SIZE
from workers.models.config import ModelConfig
from workers.models.families import read_config
from workers.models.tokenizer import Tokenizer

_AREA = 224 * 224

# The base of the rotary frequencies is small: with sections of 8, 12 and 12, columns turn with the lowest of them, and
# on a grid of 8 x 8 a larger base would leave neighbouring columns all but alike.
ROPE_THETA = 100.0


def configuration(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of config.json: about 13 million parameters, 2.8 GFLOP a picture of 224 x 224."""
    special = tokenizer.special
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": [8, 12, 12]}
    text = {
        "model_type": "qwen2_5_vl_text", "vocab_size": SIZE, "hidden_size": 384, "intermediate_size": 896,
        "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_parameters": rope, "tie_word_embeddings": True,
        "bos_token_id": special.endoftext, "eos_token_id": special.im_end, "use_sliding_window": False,
    }  # fmt: skip
    vision = {
        "model_type": "qwen2_5_vl", "depth": 6, "hidden_size": 192, "intermediate_size": 512, "num_heads": 3,
        "out_hidden_size": 384, "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 112,
        "fullatt_block_indexes": [2, 5], "tokens_per_second": 2, "in_channels": 3, "hidden_act": "silu",
    }  # fmt: skip
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "text_config": text,
        "vision_config": vision, "image_token_id": special.image_pad, "video_token_id": special.video_pad,
        "vision_start_token_id": special.vision_start, "vision_end_token_id": special.vision_end,
        "tie_word_embeddings": True, "dtype": "float32",
    }  # fmt: skip


def write(folder: Path) -> ModelConfig:
    """Writes config.json, generation_config.json and preprocessor_config.json beside the folder's tokenizer.json."""
    tokenizer = Tokenizer.from_folder(folder)
    special = tokenizer.special
    files: dict[str, dict[str, Any]] = {
        "config.json": configuration(tokenizer),
        "generation_config.json": {
            "do_sample": False, "eos_token_id": [special.im_end, special.endoftext],
            "pad_token_id": special.endoftext, "max_new_tokens": 64,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2,
            "temporal_patch_size": 2, "min_pixels": _AREA, "max_pixels": _AREA,
            "size": {"shortest_edge": _AREA, "longest_edge": _AREA},
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return read_config(folder)


def main() -> None:
    """Writes the configuration into models/mini."""
    write(Path(__file__).parents[1] / "models" / "mini")


if __name__ == "__main__":
    main()
