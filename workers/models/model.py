"""A vision-language model: a vision tower and a decoder that reads its tokens."""

import torch
from torch import nn

from workers.models.config import ModelConfig
from workers.models.decoder import Decoder
from workers.models.families import FAMILIES
from workers.models.vision import VisionTower


class VisionLanguageModel(nn.Module):
    """`vision` makes tokens of pictures, `decoder` reads them among text; joining the two is up to the caller."""

    vision: VisionTower

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = FAMILIES[config.family].tower(config.vision)
        self.decoder = Decoder(config.text)


def empty_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> VisionLanguageModel:
    """A model whose weights are allocated but hold nothing yet."""
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    model = model.to(dtype).to_empty(device=device)
    return model.eval()
