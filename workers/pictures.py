"""JPEG bytes from the lanes to RGB in the engine's shared memory, off the event loop."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from protocol.errors import BadMedia
from protocol.messages import Picture
from workers.perception.changes import means


class PictureDecoder:
    """A few threads that decode. The pictures come from our own gateway, so only their declared size is checked."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def decode(self, picture: Picture, into: NDArray[np.uint8]) -> asyncio.Future[bytes]:
        """Begins to write the picture into ``into``, uint8 [height, width, 3]. The future has its look, or BadMedia."""
        return asyncio.get_running_loop().run_in_executor(self._threads, decode, picture.jpeg, into)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def decode(jpeg: bytes, into: NDArray[np.uint8]) -> bytes:
    """Decodes into uint8 [height, width, 3]; gives what PushFrame tells of its look.

    Raises BadMedia for anything but a JPEG of exactly that size.
    """
    height, width, _ = into.shape
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            if image.size != (width, height):
                raise BadMedia(f"a picture of {image.width} x {image.height} was announced as {width} x {height}")
            shown = image if image.mode == "RGB" else image.convert("RGB")
            np.copyto(into, np.asarray(shown))
            return means(shown)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadMedia("a picture cannot be decoded") from error
