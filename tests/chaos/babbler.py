"""A model whose answers are long: random weights in the bundled model's shape, smaller, that say words without end.

What it says depends on what it saw, on its seed and on temperature, and means nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

MINI = Path(__file__).parents[2] / "models" / "mini"
LOGIT_SPREAD = 5.0  # standard deviation of the logits: several words are likely at temperature 0.7, no other token is
LAYERS = 2


def write_babbler(folder: Path, *, seed: int = 0) -> Path:
    """Writes the model into ``folder``, which it returns."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from workers.models.tokenizer import Tokenizer

    torch.manual_seed(seed)
    shape = json.loads((MINI / "config.json").read_text()) | {"tie_word_embeddings": False}
    shape["text_config"] |= {"num_hidden_layers": LAYERS, "tie_word_embeddings": False}
    shape["vision_config"] |= {"depth": LAYERS, "fullatt_block_indexes": [LAYERS - 1]}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**shape))
    tokenizer = Tokenizer.from_folder(MINI)
    with torch.no_grad():
        head = model.lm_head.weight
        head.normal_(0.0, LOGIT_SPREAD / head.shape[1] ** 0.5)
        for token in range(head.shape[0]):
            word = tokenizer.token_bytes(token)
            if not word or not word.isascii():
                head[token] = 0.0
    model.save_pretrained(folder)
    for file in MINI.glob("*.json"):
        if file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, folder)
    return folder
