"""Whole video files: spooled to disk, then read through a decoder of their own to the lanes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import msgspec

from protocol.errors import BadMedia, LonglookError, TooLarge, UnsupportedMedia
from server.media.decoders import Decoder, DecoderLost, Nursery, refusal
from server.media.headers import sniff_file
from server.media.ingest import Ingest
from server.media.jobs import Done, Failed, File, Opened, PictureOut, Result, SoundOut
from server.settings import Limits

Pace = Literal["fast", "realtime"]
SNIFF_BYTES = 512


@dataclass(frozen=True)
class Summary:
    """What a file brought: pictures sampled, its length as decoded, and damaged packets."""

    frames: int
    duration_ms: int
    damaged: int


class Spool:
    """A file on disk without a name: it is gone once nobody holds it open."""

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._head = b""

    async def fill(self, body: AsyncIterator[bytes]) -> None:
        """Raises TooLarge."""
        async for piece in body:
            self._bytes += len(piece)
            if self._bytes > self._max_bytes:
                raise TooLarge(f"a file has at most {self._max_bytes} bytes")
            self._head += piece[: SNIFF_BYTES - len(self._head)]
            await asyncio.to_thread(self._file.write, piece)
        await asyncio.to_thread(self._file.seek, 0)

    @property
    def demuxer(self) -> str:
        """Raises UnsupportedMedia where the file does not begin like one that is accepted."""
        demuxer = sniff_file(self._head)
        if demuxer is None:
            raise UnsupportedMedia("the file is not of a kind that is accepted: MP4, MOV, WebM, Matroska, AVI, MPEG-TS")
        return demuxer

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class FileFeed:
    """Reads one file: ``open`` tells whether it can be, ``run`` leads it to the lanes, ``close`` ends its decoder."""

    def __init__(self, ingest: Ingest, nursery: Nursery, limits: Limits) -> None:
        self._ingest = ingest
        self._nursery = nursery
        self._limits = limits
        self._decoder: Decoder | None = None
        self._results: AsyncIterator[Result] | None = None

    async def open(self, spool: Spool) -> Opened:
        """Read the file's header. Raises NoVideo, BadMedia, TooLarge, UnsupportedMedia."""
        demuxer = spool.demuxer
        setup = msgspec.structs.replace(self._ingest.setup, total_cpu_seconds=self._limits.file_cpu_s)
        try:
            self._decoder = await self._nursery.spawn(setup, spool.descriptor)
            self._results = self._decoder.run(File(demuxer=demuxer), self._limits.decode_s)
            first = await anext(self._results)
        except DecoderLost:
            raise BadMedia("the decoder was lost over the file's header") from None
        if isinstance(first, Opened):
            return first
        raise _refusal(first)

    async def run(self, start_ms: int, track: int, pace: Pace) -> Summary:
        """Append the file's pictures and sound from session time ``start_ms`` on; nothing of it is dropped.

        Raises:
            BadMedia: decoding broke off; what came before stands.
            Replaced, SessionClosed, NotFound, TimedOut: the lanes take no more.
        """
        if self._results is None:
            raise RuntimeError("a file is opened before it is run")
        begun = time.monotonic()
        frames = 0
        try:
            async for result in self._results:
                if isinstance(result, Done):
                    return Summary(frames, result.duration_ms, result.damaged)
                if isinstance(result, PictureOut | SoundOut):
                    if pace == "realtime":
                        await asyncio.sleep(begun + result.t_ms / 1000 - time.monotonic())
                    frames += isinstance(result, PictureOut)
                    await self._append(msgspec.structs.replace(result, track=track, t_ms=start_ms + result.t_ms))
                else:
                    raise _refusal(result)
        except DecoderLost:
            self._ingest.tally.decoder_lost()
            raise BadMedia("the decoder was lost over the file") from None
        raise BadMedia("the file's decoder ended early")

    async def close(self) -> None:
        """End the decoder, whether or not it is done."""
        if self._decoder is not None:
            await self._decoder.kill()

    async def _append(self, result: PictureOut | SoundOut) -> None:
        ingest, now = self._ingest, time.time()
        ingest.clock.advance(result.t_ms, now)
        if isinstance(result, PictureOut):
            ingest.tally.came("file", now)
            await ingest.publisher.picture(result, now, lossless=True)
            ingest.recorder.frame(result.jpeg, result.t_ms, result.track)
            ingest.tally.went(now, time.time())
            ingest.arrived(result.t_ms)
        else:
            await ingest.publisher.sound(result, now, lossless=True)
            ingest.tally.sound(len(result.pcm))
        ingest.went(result)


def _refusal(result: Result) -> LonglookError:
    return refusal(result) if isinstance(result, Failed) else BadMedia("the file cannot be read")
