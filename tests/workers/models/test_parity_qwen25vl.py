"""What Qwen2.5-VL alone has: windows of the vision tower, and positions by the second."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.workers.models.parity import (
    TOLERANCE,
    distance,
    noise,
    our_logits,
    reference_logits,
    reference_tokens,
    stream_of,
)
from workers.models.checkpoint import Checkpoint, open_checkpoint

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("no_gradients")]


@pytest.fixture(scope="module")
def tiny(tiny_qwen25vl: Callable[..., Any]) -> Any:
    return tiny_qwen25vl(seed=0)


def test_vision_tower_with_windows_of_other_sizes(tiny_qwen25vl: Callable[..., Any]) -> None:
    for seed, window in enumerate((28, 56, 84, 448)):
        tiny = tiny_qwen25vl(seed=seed, vision={"window_size": window, "fullatt_block_indexes": [0, 2]})
        ours = open_checkpoint(tiny.folder)
        patches = noise(ours, seed, 10 * 14)
        tokens = ours.model.vision(patches[None], (1, 10, 14))[0]
        assert distance(tokens, reference_tokens(tiny, patches, (1, 10, 14))) < TOLERANCE / 10


def test_video_numbered_by_transformers_itself(tiny: Any, ours: Checkpoint) -> None:
    """One video of three grids a second apart: the same logits, and our clock gives its grids the same positions."""
    header, grid = ours.chat.header(), (3, 8, 12)
    frames = [ours.chat.frame(header.clock, 0, 4, 6)]
    for time_ms in (1000, 2000):
        frames.append(ours.chat.frame(frames[-1].clock, time_ms, 4, 6))
    question = ours.chat.question(frames[-1].clock, "Is there a dog?")
    stream = stream_of([header, *frames, question], [noise(ours, 1, 3 * 96)], [grid])
    pads = stream.tokens == ours.tokenizer.special.video_pad
    theirs, _ = tiny.reference.model.get_rope_index(
        stream.tokens[None], pads.int()[None] * 2, video_grid_thw=torch.tensor([grid]), second_per_grid_ts=[1.0]
    )
    assert torch.equal(theirs[:, 0, pads], stream.positions[:, pads])
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE
    stream.positions = theirs[:, 0]
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE
