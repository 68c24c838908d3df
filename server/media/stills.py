"""Encoded pictures to JPEG at the model's size. Runs in a decoder process."""

from __future__ import annotations

import io

import av
from PIL import Image

from server.media.jobs import PictureOut, Setup, Still, StillCodec
from server.media.looks import look_of_image
from server.media.metadata import bare, orientation
from server.media.progressive import coarse
from server.media.refusals import Refused

FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
PLAIN = ("L", "RGB", "CMYK")  # modes that are resized without a copy at full size
UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
START_OF_SCAN = b"\xff\xda"  # ITU-T T.81, table B.1; within a scan's own data 0xFF is followed by zero
SCANS = (
    20  # of a JPEG of the most pixels, of a smaller one in proportion: encoders make ten, a flat one costs few bytes
)


def decode_still(job: Still, setup: Setup) -> PictureOut:
    """Decode with the named codec, turn upright, and resize to the card's frame (its aspect ratio is not kept).

    Raises:
        OSError, ValueError, SyntaxError: the bytes are not a whole picture of the codec.
        Refused: it would cost too much.
    """
    with open_picture(job.codec, job.data, setup) as image:
        turned = orientation(job.codec, job.data)
        size = (setup.height, setup.width) if turned in SIDEWAYS else (setup.width, setup.height)
        encoded = image.size
        drafted = _drafted(job, image, size)
        whole = drafted if drafted.mode in PLAIN else drafted.convert("RGB")
        small = whole.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).convert("RGB")
        look = look_of_image(small, whole if whole.size == encoded else None)
    if turned in UPRIGHT:
        small = small.transpose(UPRIGHT[turned])
    jpeg = to_jpeg(small, setup)
    return PictureOut(track=job.track, t_ms=job.t_ms, width=setup.width, height=setup.height, jpeg=jpeg, look=look)


def _drafted(job: Still, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A JPEG is decoded at a fraction of its size where that suffices for ``size``, and of it no more than is seen."""
    eighth = (-(-image.width // 8), -(-image.height // 8))
    image.draft("RGB", size)
    if job.codec != "jpeg" or image.size != eighth or not image.info.get("progressive"):
        return image
    image = Image.open(io.BytesIO(coarse(bare(job.codec, job.data))), formats=[FORMATS[job.codec]])
    image.draft("RGB", size)
    return image


def open_picture(codec: StillCodec, data: bytes, setup: Setup) -> Image.Image:
    """Only the header is read. The gateway has checked the pixels already; this is the second lock.

    Raises:
        OSError, ValueError, SyntaxError: the bytes do not begin like a picture of the codec.
        Refused: it has too many pixels, too many passes over them, or too many parts.
    """
    image = Image.open(io.BytesIO(bare(codec, data)), formats=[FORMATS[codec]])
    pixels = image.width * image.height
    if pixels > setup.max_pixels:
        raise Refused("too_large", f"a picture of {image.width}x{image.height} has more pixels than are accepted")
    if codec == "jpeg" and data.count(START_OF_SCAN) * pixels > SCANS * setup.max_pixels:
        raise Refused("too_large", "a progressive picture of so many scans costs more than is accepted")
    return image


def frame_to_jpeg(frame: av.VideoFrame, setup: Setup, turn: Image.Transpose | None = None) -> bytes:
    """A decoded video picture as JPEG at the card's size; ``turn`` sets it upright."""
    small = frame.reformat(width=setup.width, height=setup.height, format="rgb24", interpolation="AREA")
    plane = small.planes[0]
    image = Image.frombytes("RGB", (small.width, small.height), bytes(plane), "raw", "RGB", plane.line_size, 1)
    return to_jpeg(image if turn is None else image.transpose(turn), setup)


def to_jpeg(image: Image.Image, setup: Setup) -> bytes:
    size = (setup.width, setup.height)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=setup.quality)
    return out.getvalue()
