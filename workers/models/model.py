"""A vision-language model: a vision tower and a decoder that reads its tokens."""

from dataclasses import replace

import torch
from torch import nn

from workers.core import ALONE, Team
from workers.models.config import ModelConfig
from workers.models.decoder import Decoder
from workers.models.eightbit import Weights, check, convert
from workers.models.families import FAMILIES
from workers.models.vision import VisionTower


class VisionLanguageModel(nn.Module):
    """`vision` makes tokens of pictures, `decoder` reads them among text; joining the two is up to the caller."""

    vision: VisionTower

    def __init__(self, config: ModelConfig, team: Team = ALONE) -> None:
        """In a `team` the decoder is this rank's share of the model that `config` describes, the tower is whole."""
        super().__init__()
        self.vision = FAMILIES[config.family].tower(config.vision)
        self.decoder = Decoder(config.text, team)
        self.config = replace(config, text=self.decoder.config)


def empty_model(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    team: Team = ALONE,
    weights: Weights | None = None,
) -> VisionLanguageModel:
    """A model whose weights are allocated but hold nothing yet; in a `team`, this rank's share of it.

    UnsupportedModel if the device cannot multiply `weights` of that kind.
    """
    with torch.device("meta"):
        model = VisionLanguageModel(config, team)
    model = model.to(dtype)
    if weights == "fp8":
        check(device)
        convert(model)
    return model.to_empty(device=device).eval()
