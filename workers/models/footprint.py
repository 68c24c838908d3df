"""How much GPU memory a model needs and how many streams fit beside it, computed from its shape."""

import torch

from workers.models.config import ModelConfig, TextConfig
from workers.models.eightbit import Weights, convert
from workers.models.model import VisionLanguageModel

USABLE_SHARE = 0.9
WORKING_BYTES = 2 * 1024**3


def parameters(config: ModelConfig) -> int:
    """The number of weights, tied ones counted once."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in VisionLanguageModel(config).parameters())


def weight_bytes(config: ModelConfig, weights: Weights | None = None) -> int:
    """What the weights take in bfloat16, or with their matrices in eight bits."""
    with torch.device("meta"):
        model = VisionLanguageModel(config).bfloat16()
        if weights == "fp8":
            convert(model)
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def kv_bytes_per_token(text: TextConfig, value_bytes: int = 2) -> int:
    """Keys and values of one token over all layers."""
    return 2 * text.layers * text.kv_heads * text.head_dim * value_bytes


def streams(config: ModelConfig, memory_bytes: int, budget_tokens: int, weights: Weights | None = None) -> int:
    """Sessions whose whole budget fits into a GPU's memory beside the weights, 0 if the weights do not fit.

    Of the memory a share is usable; of that, the weights and `WORKING_BYTES` for activations and the CUDA context go
    first. Memory is one limit; how many frames a second the GPU computes is another, which this says nothing about.
    """
    free = USABLE_SHARE * memory_bytes - weight_bytes(config, weights) - WORKING_BYTES
    return max(0, int(free // (budget_tokens * kv_bytes_per_token(config.text))))
