"""Random weights: the shape of a folder without any, and answers that never end by themselves."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.random_model import QWEN25VL_7B
from bench.shape import write_shape
from tests.workers.models.shapes import EXPERTS, QWEN3VL, QWEN25VL
from workers.models.checkpoint import open_checkpoint
from workers.models.config import ModelConfig
from workers.models.drawn import drawn_model
from workers.models.errors import CheckpointError
from workers.models.families import read_config

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("shape", [QWEN25VL_7B, QWEN25VL, QWEN3VL, EXPERTS], ids=["7b", "2.5", "3", "experts"])
def test_a_shape_is_read_as_it_was_written(tmp_path: Path, shape: ModelConfig) -> None:
    read = read_config(write_shape(shape, tmp_path, side=28))
    assert read.text == shape.text
    assert replace(read.vision, full_attention_blocks=shape.vision.full_attention_blocks) == shape.vision


def test_a_folder_without_weights_opens_with_drawn_ones(tmp_path: Path) -> None:
    shape = replace(QWEN25VL, text=replace(QWEN25VL.text, vocab_size=2048, tied_embeddings=False))
    write_shape(shape, tmp_path, side=28)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path, load=drawn_model)
    head = checkpoint.model.decoder.lm_head
    assert head is not None
    assert checkpoint.pixels.side == 28
    stops = sorted(checkpoint.tokenizer.special.stops)
    assert not head.weight[stops].any()
    assert head.weight.abs().sum(dim=1).count_nonzero() == 2048 - len(stops)
