"""Encoded pictures to JPEG at the model's size. Runs in a decoder process."""

from __future__ import annotations

import io

import av
from PIL import Image, ImageOps

from server.media.jobs import PictureOut, Setup, Still

FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


def decode_still(job: Still, setup: Setup) -> PictureOut:
    """Decode with the named codec, turn upright, and resize to the card's frame (its aspect ratio is not kept).

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the bytes are not a whole picture of the codec.
    """
    # Pillow refuses above twice its limit; the gateway has checked the header already, this is the second lock.
    Image.MAX_IMAGE_PIXELS = max(setup.max_pixels // 2, 1)
    with Image.open(io.BytesIO(job.data), formats=[FORMATS[job.codec]]) as image:
        image.draft("RGB", (setup.width, setup.height))  # decodes a JPEG at a fraction of its size where that suffices
        upright = ImageOps.exif_transpose(image).convert("RGB")
    jpeg = to_jpeg(upright, setup)
    return PictureOut(track=job.track, t_ms=job.t_ms, width=setup.width, height=setup.height, jpeg=jpeg)


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
