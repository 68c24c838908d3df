"""A model's shape as vLLM and transformers open it: the published layout, a tokenizer of single bytes, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from workers.models.config import ModelConfig

FIRST_SPECIAL = 151_643
SPECIAL = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
).split()
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def write_published(config: ModelConfig, folder: Path) -> Path:
    """Configuration, tokenizer and image processor of a Qwen2.5-VL model of this shape."""
    from transformers import Qwen2_5_VLConfig

    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    text, vision = config.text, config.vision
    rope = {"rope_type": "default", "type": "default", "mrope_section": list(text.mrope_section or ())}
    told: dict[str, Any] = Qwen2_5_VLConfig().to_dict()
    told |= {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "dtype": "bfloat16"}
    told["text_config"] |= {
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.trained_length,
        "rope_parameters": rope | {"rope_theta": text.rope_theta},
        "rope_scaling": rope,
        "layer_types": ["full_attention"] * text.layers,
        "dtype": "bfloat16",
    }
    told["vision_config"] |= {
        "hidden_size": vision.hidden_size,
        "depth": vision.depth,
        "intermediate_size": vision.intermediate_size,
        "num_heads": vision.heads,
        "out_hidden_size": vision.out_hidden_size,
        "fullatt_block_indexes": sorted(vision.full_attention_blocks),
    }
    _write(folder / "config.json", told)
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.merge_size,
            "min_pixels": 3136,
            "max_pixels": 12_845_056,
        },
    )
    stops = [FIRST_SPECIAL + SPECIAL.index("im_end"), FIRST_SPECIAL]
    _write(folder / "generation_config.json", {"bos_token_id": FIRST_SPECIAL, "eos_token_id": stops})
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Every byte is a token; names fill the numbers up to the special ones."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"<f{number}>" for number in range(len(letters), FIRST_SPECIAL))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True, normalized=False) for name in SPECIAL])
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    make: Any = PreTrainedTokenizerFast
    fast = make(tokenizer_object=tokenizer, model_max_length=131_072, **ends)
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    pads = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    _write(path, settings | pads | {"tokenizer_class": "Qwen2Tokenizer", "chat_template": CHAT})
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
