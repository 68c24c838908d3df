"""Our pictures against those of transformers' image processor (its PIL variant)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from workers.models.config import VisionConfig
from workers.models.pixels import PixelFormat, resized

pytestmark = pytest.mark.parity

VISION = VisionConfig(
    depth=2,
    hidden_size=32,
    intermediate_size=48,
    heads=2,
    out_hidden_size=24,
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    window_size=112,
    full_attention_blocks=frozenset({1}),
    tokens_per_second=2,
)
SETTINGS: Mapping[str, Any] = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 40, "patch_size": 14, "merge_size": 2}
PICTURES = [(224, 224), (360, 640), (90, 31), (57, 400), (28, 28), (1000, 70), (42, 70)]


@pytest.fixture
def pixels(tmp_path: Path) -> PixelFormat:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return PixelFormat.from_folder(tmp_path, VISION, 336 * 336)


@pytest.fixture
def processor() -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(**SETTINGS)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), PICTURES)
def test_resized_normalised_and_cut_like_the_reference(
    pixels: PixelFormat, processor: Any, height: int, width: int
) -> None:
    image = picture(height, width)
    expected = processor(image, return_tensors="pt")
    down, across = pixels.fitted(height, width)
    frame = torch.from_numpy(resized(image, down, across).copy())
    pairs = frame.expand(1, 2, -1, -1, -1)
    assert expected["image_grid_thw"].tolist() == [[1, down // 14, across // 14]]
    torch.testing.assert_close(pixels.patches(pairs)[0], expected["pixel_values"], atol=1e-5, rtol=0)


def test_settings_of_qwen3vl(tmp_path: Path) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * 40}
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    settings: dict[str, Any] = {"size": size, "patch_size": 16, "merge_size": 2, **grey}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    pixels = PixelFormat.from_folder(tmp_path, replace(VISION, patch_size=16), 384 * 384)
    processor: Any = Qwen2VLImageProcessorPil
    expected = processor(**settings)(picture(360, 640), return_tensors="pt")
    down, across = pixels.fitted(360, 640)
    frame = torch.from_numpy(resized(picture(360, 640), down, across).copy())
    assert expected["image_grid_thw"].tolist() == [[1, down // 16, across // 16]]
    pairs = pixels.patches(frame.expand(1, 2, -1, -1, -1))
    torch.testing.assert_close(pairs[0], expected["pixel_values"], atol=1e-5, rtol=0)
    assert pixels.side == 192


def test_single_pictures_are_the_halves_of_a_repeated_pair(pixels: PixelFormat) -> None:
    frames = torch.from_numpy(np.stack([picture(56, 84), picture(56, 84)[::-1]]))
    pairs = pixels.patches(frames.unsqueeze(1).expand(-1, 2, -1, -1, -1)).view(2, 24, 3, 2, 196)
    single = pixels.patches(frames).view(2, 24, 3, 196)
    assert torch.equal(pairs[:, :, :, 0], single)
    assert torch.equal(pairs[:, :, :, 1], single)


@pytest.mark.unit
def test_default_side_is_a_square_of_an_allowed_area(pixels: PixelFormat) -> None:
    assert pixels.side == 168
    assert pixels.grid(168, 168) == (6, 6)


@pytest.mark.unit
@pytest.mark.parametrize("shape", [(1, 30, 28, 3), (1, 28, 27, 3)])
def test_frames_of_another_size_are_refused(pixels: PixelFormat, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 28"):
        pixels.patches(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        pixels.patches(torch.zeros(1, 28, 28, 3))


@pytest.mark.unit
@pytest.mark.parametrize(("height", "width"), [(0, 10), (1, 201), (2010, 10)])
def test_pictures_without_a_usable_shape_are_refused(pixels: PixelFormat, height: int, width: int) -> None:
    with pytest.raises(ValueError, match="too oblong"):
        pixels.fitted(height, width)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 16}, "patch_size of the image processor is not 14"),
        ({"min_pixels": 9000, "max_pixels": 8000}, "smallest picture is larger"),
        ({"image_mean": "grey"}, "image_mean must be a list"),
        ({"image_std": [1.0]}, "1 channels are not supported"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path: Path, settings: Mapping[str, Any], message: str) -> None:
    from workers.models.errors import ModelError

    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**SETTINGS, **settings}))
    with pytest.raises(ModelError, match=message):
        PixelFormat.from_folder(tmp_path, VISION, 336 * 336)


@pytest.mark.unit
def test_settings_of_newer_folders_are_found(tmp_path: Path, pixels: PixelFormat) -> None:
    newer = tmp_path / "newer"
    newer.mkdir()
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 40}
    (newer / "processor_config.json").write_text(json.dumps({"image_processor": {"size": size, "patch_size": 14}}))
    assert PixelFormat.from_folder(newer, VISION, 336 * 336) == pixels
    assert PixelFormat.from_folder(newer, VISION, 60 * 60) == replace(pixels, side=56)
