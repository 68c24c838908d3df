"""Encoded media through a live socket, and what the worker saw of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from websockets.asyncio.client import ClientConnection

from tests.server.fake_worker import FakeWorker
from tests.server.formats.footage import PSNR_DB, RATE, Shown, opened, psnr
from tests.server.wire import chunk, hear, say

PERIOD_MS = 1000 / RATE
CODECS = {
    "jpeg": 1, "png": 2, "webp": 3, "pcm16": 4, "h264": 5, "h265": 6, "vp8": 7, "vp9": 8, "av1": 9,
    "opus": 10, "aac": 11, "mp4": 12, "webm": 13,
}  # fmt: skip

Timed = tuple[float, bytes]  # capture time in milliseconds, and the bytes


async def send(socket: ClientConnection, codec: str, chunks: Iterable[Timed], *, track: int = 0, first: int = 0) -> int:
    """Send chunks from sequence ``first`` on; returns the next one's."""
    sequence = first
    for t_ms, data in chunks:
        await socket.send(chunk(CODECS[codec], sequence, t_ms / 1000, data, track=track))
        sequence += 1
    return sequence


async def end(socket: ClientConnection, newest: int, track: int = 0) -> None:
    """Say that all was sent, and wait until it is settled."""
    await say(socket, type="media.end")
    await hear(socket, lambda e: e["type"] == "media.ack" and (e["track"], e["sequence"]) == (track, newest), 30)


async def seen(worker: FakeWorker, session: dict[str, Any], count: int, track: int = 0) -> list[Shown]:
    """The pictures of a track, once there are so many."""
    owned = await worker.saw(session["id"], lambda owned: sum(p.track == track for p in owned.pictures) >= count)
    return [Shown(item.t_ms, opened(item.jpeg)) for item in owned.pictures if item.track == track]


def same(shown: list[Shown], expected: list[Shown], *, origin_ms: float = 0.0) -> None:
    """The same pictures, each within one picture's time of the reference's."""
    assert len(shown) == len(expected)
    for one, other in zip(shown, expected, strict=True):
        assert abs(one.t_ms - other.t_ms - origin_ms) < PERIOD_MS, (one.t_ms, other.t_ms)
        assert psnr(one.pixels, other.pixels) >= PSNR_DB, one.t_ms
