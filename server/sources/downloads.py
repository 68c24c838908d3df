"""Files that are pulled: led through their session's way in like those that are uploaded, once they have arrived."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from protocol.errors import BadMedia, NoVideo, UnsupportedMedia
from protocol.messages import Ingest as IngestMode
from server.media.decoders import Nursery
from server.media.ingest import Ingest
from server.media.uploads import FileFeed, Spool
from server.settings import Settings
from server.sources.messages import Ended, Piece, Report
from server.sources.outcome import Interrupted


@dataclass(frozen=True)
class Download:
    """A file on its way in. ``next`` gives the puller's reports; ``began`` is called when the file begins to play."""

    next: Callable[[], Awaitable[Report]]
    began: Callable[[], None]


async def play(
    download: Download, track: int, mode: IngestMode, ingest: Ingest, nursery: Nursery, settings: Settings
) -> None:
    """Raises Interrupted, and what the lanes raise."""
    spool = Spool(settings.spool_dir, settings.limits.file_bytes)
    feed = FileFeed(ingest, nursery, settings.limits)
    try:
        await spool.fill(_pieces(download))
        await feed.open(spool)
        start_ms = ingest.place(track, None, time.time())
        download.began()
        await feed.run(start_ms, track, "fast" if mode == "complete" else "realtime")
    except (BadMedia, NoVideo, UnsupportedMedia) as error:
        raise Interrupted(error.message, lasting=True) from None
    finally:
        await feed.close()
        spool.close()


async def _pieces(download: Download) -> AsyncIterator[bytes]:
    while True:
        match await download.next():
            case Piece(data=data):
                yield data
            case Ended():
                return
            case _:
                raise Interrupted("the file did not arrive whole")
