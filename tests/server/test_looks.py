"""What the decoder measures of a picture, on real encodings of it."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from server.media.health import BLOCKS, SMOOTH
from server.media.looks import POINTS, blockiness, look_of_frame, look_of_image

pytestmark = pytest.mark.unit


def natural(seed: int = 1) -> NDArray[np.uint8]:
    """Luma with the spectrum of natural scenes, about 1/f, and a little noise."""
    rng = np.random.default_rng(seed)
    across, down = np.meshgrid(np.fft.fftfreq(640), np.fft.fftfreq(360))
    distance = np.hypot(across, down)
    distance[0, 0] = 1
    field = np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(360, 640))) / distance**1.2))
    grey = (field - field.min()) / np.ptp(field) * 255 + rng.normal(0, 2, field.shape)
    picture: NDArray[np.uint8] = grey.clip(0, 255).astype(np.uint8)
    return picture


def through_jpeg(luma: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    out = io.BytesIO()
    Image.fromarray(luma).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(out.getvalue())))


@pytest.mark.parametrize("quality", [2, 5, 10])
def test_hard_compression_is_blocky(quality: int) -> None:
    assert blockiness(through_jpeg(natural(), quality)) > BLOCKS


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_usual_compression_is_not(quality: int) -> None:
    assert blockiness(through_jpeg(natural(), quality)) < SMOOTH
    assert blockiness(natural()) == pytest.approx(1.0, abs=0.1)


def test_things_with_edges_on_the_grid_are_not_blocks() -> None:
    tiles = np.kron(np.random.default_rng(2).integers(30, 220, (9, 16)), np.ones((40, 40))).astype(np.uint8)
    assert blockiness(tiles) < SMOOTH


def test_a_flat_picture_and_a_tiny_one_can_be_looked_at() -> None:
    assert blockiness(np.full((90, 160), 77, np.uint8)) == 1.0
    tiny = look_of_image(Image.new("RGB", (1, 1), "red"), Image.new("CMYK", (1, 1)))
    assert (len(tiny.points), tiny.blocks) == (POINTS * POINTS, 0.0)


def test_a_still_is_looked_at_where_its_blocks_are() -> None:
    small = Image.new("RGB", (64, 48))
    bad = Image.fromarray(np.tile(through_jpeg(natural(), 5), (3, 3)))
    assert look_of_image(small, bad).blocks > BLOCKS
    assert look_of_image(small, None).blocks == 0.0


@pytest.mark.parametrize("form", ["yuv420p", "yuvj444p", "nv12", "gray", "yuv420p10le", "rgb24", "gbrp"])
def test_pictures_of_every_layout(form: str) -> None:
    dark = np.full((120, 161, 3), 20, np.uint8)
    dark[:, 80:] = 200
    look = look_of_frame(av.VideoFrame.from_ndarray(dark, format="rgb24").reformat(format=form))
    points = np.frombuffer(look.points, np.uint8).reshape(POINTS, POINTS)
    assert points[:, :15].mean() < 60
    assert points[:, 17:].mean() > 150
    assert not look.damaged


def test_what_the_decoder_made_up_is_damage() -> None:
    """Half a unit of H.264 is decoded, its other half concealed."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 640, 360, "yuv420p", Fraction(1, 10)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
    encoder.thread_count = 1
    grey = np.full((540, 640), 128, np.uint8)
    grey[:360] = natural()
    frame = av.VideoFrame.from_ndarray(grey, format="yuv420p")
    unit = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    for data, damaged in ((unit, False), (unit[: len(unit) // 2], True)):
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
        assert [look_of_frame(frame).damaged for frame in frames] == [damaged]
