import pytest
import torch

from training.thinning import TOLERANCE, kept, thinned

pytestmark = pytest.mark.unit


def scene(frames: int) -> torch.Tensor:
    """One example of `frames` equal pictures, [1, F, 3, 224, 224]."""
    return torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(1)).expand(1, frames, 3, 224, 224).clone()


def test_a_still_picture_is_written_once() -> None:
    written = kept(scene(4), torch.tensor([40]))
    assert written[0, 0].all()
    assert not written[0, 1:].any()


def test_what_stands_still_is_written_again_before_the_window_leaves_it() -> None:
    written = kept(scene(7), torch.tensor([6]))
    assert written[0].all(1).tolist() == [True, False, False, True, False, False, True]


def test_change_is_measured_against_what_was_last_written() -> None:
    """A slow drift adds up, and only the patch in which it happens is written."""
    pictures = scene(8) * 0.5
    for frame in range(8):
        pictures[0, frame, :, 28:56, 56:84] += 0.4 * TOLERANCE * frame
    written = kept(pictures, torch.tensor([40]))
    patch = 1 * 8 + 2
    assert written[0, :, patch].tolist() == [True, False, False, True, False, False, True, False]
    assert int(written[0, 1:].sum()) == 2


def test_a_small_thing_is_enough() -> None:
    pictures = scene(2) * 0.5
    pictures[0, 1, :, :7, :7] += 2 * TOLERANCE
    assert kept(pictures, torch.tensor([40]))[0, 1].nonzero().tolist() == [[0]]


def test_only_marked_examples_are_thinned() -> None:
    pictures = scene(2).repeat(2, 1, 1, 1, 1).flatten(0, 1)
    pads = torch.arange(128).repeat(2, 1) + 3
    batch = {
        "thin": torch.tensor([True, False]),
        "window": torch.tensor([40, 40]),
        "pads": pads,
        "until": torch.full((2, 140), 41, dtype=torch.int32),
    }
    until = thinned(batch, pictures)["until"]
    assert (until[1] == 41).all()
    assert (until[0] == 0).nonzero().flatten().tolist() == list(range(3 + 64, 3 + 128))
