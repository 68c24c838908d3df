"""Where decoding may begin: the journal marks those units when it writes them."""

from __future__ import annotations

from typing import cast

from server.media.codecs import VIDEO
from server.media.jobs import VideoCodec


def begins(codec: str, data: bytes) -> bool:
    """Whether decoding can begin with this unit, given the parameter sets that came before it."""
    form = VIDEO.get(cast(VideoCodec, codec))
    return form is not None and form.starts(data)
