"""Pictures to features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.perception.vision import Eye

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def checkpoint(tiny_qwen25vl: Callable[..., Any]) -> Checkpoint:
    return open_checkpoint(tiny_qwen25vl(seed=2).folder)


@pytest.fixture
def eye(checkpoint: Checkpoint) -> Eye:
    return Eye(checkpoint.model.vision, checkpoint.pixels)


def picture(seed: int, height: int = 112, width: int = 112) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_batch_gives_what_each_picture_gives_alone(eye: Eye) -> None:
    pictures = [picture(0), picture(1, 56, 112), picture(2), picture(3, 56, 112)]
    for together, alone in zip(eye.encode(pictures), (eye.encode([p])[0] for p in pictures), strict=True):
        assert (together.height, together.width) == (alone.height, alone.width)
        torch.testing.assert_close(together.tokens, alone.tokens, atol=1e-5, rtol=1e-5)


def test_features_are_those_of_the_tower(eye: Eye, checkpoint: Checkpoint) -> None:
    (features,) = eye.encode([picture(5)])
    patches = checkpoint.pixels.patches(torch.from_numpy(picture(5)[None]))
    with torch.inference_mode():
        expected = checkpoint.model.vision(patches, (1, 8, 8))[0]
    torch.testing.assert_close(features.tokens, expected)


def test_no_picture_gets_more_tokens_than_the_default_size(eye: Eye) -> None:
    for height, width in ((112, 112), (600, 800), (30, 90), (1080, 1920)):
        rows, columns = eye.size(height, width)
        (features,) = eye.encode([picture(0, height, width)])
        assert (features.height, features.width) == (rows, columns)
        assert len(features.tokens) == rows * columns <= eye.tokens == 16


def test_a_picture_without_a_shape_is_refused(eye: Eye) -> None:
    for height, width in ((0, 10), (3, 3000)):
        with pytest.raises(ValueError, match="oblong"):
            eye.size(height, width)
