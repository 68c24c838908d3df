"""Random weights in a model's shape: what speed takes, without a download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from workers.core import ALONE, Team
from workers.models.config import ModelConfig
from workers.models.model import VisionLanguageModel, empty_model
from workers.models.tokenizer import Tokenizer


def drawn_model(
    folder: Path,
    config: ModelConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    team: Team = ALONE,
) -> VisionLanguageModel:
    """A model of the folder's shape; of its files only the tokenizer's are read. No answer of it ends by itself.

    In a `team`, a rank's share of it: what each has whole is the same on all.
    """
    model = empty_model(config, torch.device(device), dtype, team)
    draw(model, Tokenizer.from_folder(folder).special.stops)
    return model


@torch.no_grad()
def draw(model: VisionLanguageModel, stops: Iterable[int]) -> None:
    """Weights that keep the size of what passes through; the logits of `stops` are 0, far below the largest."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    if model.decoder.lm_head is not None:
        head = model.decoder.lm_head.weight
        rows = (stop - model.decoder.first_row for stop in sorted(stops))
        head[[row for row in rows if 0 <= row < len(head)]] = 0
