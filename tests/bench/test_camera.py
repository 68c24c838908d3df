"""Pictures of cameras: each made of its numbers alone, none like another, a fixed camera's nearly so."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.camera import Album, Blocks, Crops, View, jpeg

pytestmark = pytest.mark.unit


@pytest.fixture
def street(tmp_path: Path) -> Path:
    chance = np.random.default_rng(1)
    for number in range(3):
        Image.fromarray(chance.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
    return tmp_path


@pytest.mark.parametrize("kind", ["blocks", "fixed", "moving"])
def test_no_two_pictures_are_alike_and_each_can_be_made_again(kind: str, street: Path) -> None:
    view: View = Blocks(64) if kind == "blocks" else Crops(street, 64, moving=kind == "moving")
    seen = {jpeg(view, camera, number) for camera in range(3) for number in range(12)}
    assert len(seen) == 36
    assert jpeg(view, 2, 5) in seen
    assert Image.open(io.BytesIO(jpeg(view, 0, 0))).size == (64, 64)


def test_a_fixed_camera_sees_the_same_place_under_noise(street: Path) -> None:
    view = Crops(street, 64, noise=3.0)
    first, again = (view.pixels(0, number).astype(int) for number in (0, 4))  # there and back over three pictures
    assert 0 < np.abs(first - again).mean() < 8
    assert np.abs(first - view.pixels(0, 1)).mean() > 30


def test_a_folder_without_pictures_says_what_writes_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"bench\.camera"):
        Crops(tmp_path, 64).pixels(0, 0)


def test_an_album_goes_on_where_it_was_made_to_or_begins_again() -> None:
    view = Blocks(32)
    made = Album(view, 2, 2, processes=1)
    assert made.jpeg(1, 1) == jpeg(view, 1, 1)
    assert made.jpeg(1, 7) == jpeg(view, 1, 7)
    assert Album(view, 2, 2, processes=0, again=True).jpeg(1, 7) == jpeg(view, 1, 1)
