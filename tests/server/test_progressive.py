"""What is left of a progressive JPEG shows the same at an eighth of its size."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from server.media.metadata import PARTS, bare
from server.media.progressive import coarse

pytestmark = pytest.mark.unit

SIZE = (403, 397)
EIGHTH = (50, 49)


def encoded(mode: str = "RGB", **options: object) -> bytes:
    rng = np.random.default_rng(3)
    blocks = np.kron(rng.integers(0, 255, (20, 21, 3)), np.ones((20, 20, 1)))
    noisy = (blocks + rng.normal(0, 10, blocks.shape)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).resize(SIZE).convert(mode).save(out, "JPEG", **{"progressive": True, **options})
    return bare("jpeg", out.getvalue())


def eighth(data: bytes) -> NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", EIGHTH)
        return np.asarray(image).astype(np.int16)


@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", 0), ("RGB", 1), ("RGB", 2), ("L", 0), ("CMYK", 0)])
@pytest.mark.parametrize("restarts", [0, 3])
def test_an_eighth_of_it_is_the_same(mode: str, subsampling: int, restarts: int) -> None:
    data = encoded(mode, subsampling=subsampling, restart_marker_rows=restarts)
    less = coarse(data)
    assert len(less) < 0.7 * len(data)
    assert eighth(less).shape[:2] == (50, 51)
    assert np.array_equal(eighth(less), eighth(data))


def test_what_is_not_progressive_or_not_whole_is_left_as_it_is() -> None:
    whole = encoded()
    for data in (encoded(progressive=False), whole[:-2], whole[:100], whole.replace(b"\xff\xd9", b"\x00\xd9")):
        assert coarse(data) == data


def test_many_segments_between_scans_are_not_read_to_their_end() -> None:
    data = encoded()
    scan = data.rindex(b"\xff\xda")
    crowd = data[:scan] + b"\xff\xc4\x00\x02" * PARTS + data[scan:]
    assert coarse(crowd) == crowd


@pytest.mark.parametrize("seed", range(100))
def test_damage_is_read_or_refused(seed: int) -> None:
    source = random.Random(seed)
    data = bytearray(encoded())
    for _ in range(source.randrange(1, 30)):
        data[source.randrange(min(len(data), 800))] = source.randrange(256)
    try:
        assert len(coarse(bytes(data))) <= len(data) + 1000
    except (ArithmeticError, LookupError, ValueError, struct.error):
        pass
