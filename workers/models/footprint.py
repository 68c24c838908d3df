"""How much GPU memory a model needs and how many streams fit beside it, computed from its shape."""

import torch

from workers.models.config import ModelConfig, TextConfig
from workers.models.model import VisionLanguageModel

USABLE_SHARE = 0.9
WORKING_BYTES = 2 * 1024**3


def parameters(config: ModelConfig) -> int:
    """The number of weights, tied ones counted once."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in VisionLanguageModel(config).parameters())


def kv_bytes_per_token(text: TextConfig, value_bytes: int = 2) -> int:
    """Keys and values of one token over all layers."""
    return 2 * text.layers * text.kv_heads * text.head_dim * value_bytes


def streams(config: ModelConfig, memory_bytes: int, budget_tokens: int, value_bytes: int = 2) -> int:
    """Sessions whose whole budget fits into a GPU's memory beside the weights, 0 if the weights do not fit.

    Of the memory a share is usable; of that, the weights and `WORKING_BYTES` for activations and the CUDA context go
    first. Memory is one limit; how many frames a second the GPU computes is another, which this says nothing about.
    """
    free = USABLE_SHARE * memory_bytes - parameters(config) * value_bytes - WORKING_BYTES
    return max(0, int(free // (budget_tokens * kv_bytes_per_token(config.text, value_bytes))))
