"""Clips and thumbnails of recordings, made in decoder processes: stored bytes are no safer than those that came in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from protocol.errors import BadMedia, NotFound, UnsupportedMedia
from server.journal.entries import Kind
from server.journal.recording import EntryPoint, Kept, Recording
from server.media.decoders import Decoder, DecoderLost, Nursery
from server.media.headers import picture_size
from server.media.jobs import Clip as ClipJob
from server.media.jobs import ClipEnd, ClipOpen, ClipPart, ClipUnit, Failed, PictureOut, Piece, Result, Setup, Still
from server.settings import Settings

MP4_CODECS = frozenset({"h264", "h265", "vp9", "av1"})  # those whose units an MP4 takes as they are
PART_BYTES = 1 << 20
PART_UNITS = 32
UNKNOWN_MS = 1_000  # how long the only picture of a clip is seen
SHORTEST_MS = 40

Source = Literal["media", "frames"]


class Clip:
    """An MP4 being made; ``close`` must be called. ``start_ms``: session time of its first picture."""

    def __init__(
        self, work: _Work, start_ms: int, source: Source, first: bytes, rest: Iterator[tuple[int, ClipPart]]
    ) -> None:
        self.start_ms = start_ms
        self.source = source
        self._work = work
        self._first = first
        self._rest = rest

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the MP4, as they are made. Raises BadMedia."""
        yield self._first
        while (following := await asyncio.to_thread(next, self._rest, None)) is not None:
            yield await self._work.made(following[1])
        yield await self._work.made(ClipEnd())

    async def close(self) -> None:
        await self._work.decoder.kill()


@dataclass(frozen=True)
class _Work:
    """A decoder at work for this room."""

    decoder: Decoder
    limit_s: float

    async def made(self, job: ClipJob) -> bytes:
        return b"".join([result.data for result in await self.results(job) if isinstance(result, Piece)])

    async def results(self, job: ClipJob | Still) -> list[Result]:
        """Raises UnsupportedMedia, BadMedia."""
        try:
            results = [result async for result in self.decoder.run(job, self.limit_s)]
        except DecoderLost:
            raise BadMedia("the decoder was lost over what is stored") from None
        last = results[-1]
        if isinstance(last, Failed):
            raise (UnsupportedMedia if last.code == "unsupported_media" else BadMedia)(last.message)
        return results


class Exporter:
    """Makes them, each in a process of its own."""

    def __init__(self, nursery: Nursery, settings: Settings) -> None:
        self._nursery = nursery
        self._settings = settings

    async def thumbnail(self, jpeg: bytes, width: int) -> bytes:
        """The picture at ``width``, its aspect ratio kept. Raises BadMedia."""
        full_width, full_height = picture_size("jpeg", jpeg)
        if width >= full_width:
            return jpeg
        setup = self._setup(width, max(round(full_height * width / full_width), 1))
        work = await self._begin(setup)
        try:
            for result in await work.results(Still(codec="jpeg", t_ms=0, data=jpeg)):
                if isinstance(result, PictureOut):
                    return result.jpeg
        finally:
            await work.decoder.close()
        raise BadMedia("the picture cannot be decoded")

    async def clip(self, recording: Recording, track: int | None, from_ms: int, to_ms: int) -> Clip:
        """The span as MP4: its media from the key frame before it on, or else its sampled frames.

        Raises:
            NotFound: no picture of the span is stored.
            BadMedia: what is stored cannot be made into a clip.
        """
        point = await asyncio.to_thread(_entry_point, recording, track, from_ms, to_ms)
        if point is not None:
            opening = ClipOpen(codec=point.codec, preamble=point.preamble, head=b"")
            try:
                return await self._made(_media(recording, point, to_ms), "media", opening, to_ms)
            except (UnsupportedMedia, NotFound):
                pass  # its sampled frames will do
        frames = _frames(recording, track, from_ms, to_ms)
        return await self._made(frames, "frames", ClipOpen(codec="jpeg", head=b""), to_ms)

    async def _made(self, kept: Iterator[Kept], source: Source, opening: ClipOpen, to_ms: int) -> Clip:
        parts = _parts(kept, to_ms)
        begun = await asyncio.to_thread(next, parts, None)
        if begun is None:
            raise NotFound("no picture of this span is stored")
        start_ms, part = begun
        work = await self._begin(self._setup(0, 0))
        try:
            first = await work.made(replace(opening, head=part.units[0].data)) + await work.made(part)
        except BaseException:
            await work.decoder.kill()
            raise
        return Clip(work, start_ms, source, first, parts)

    async def _begin(self, setup: Setup) -> _Work:
        try:
            return _Work(await self._nursery.spawn(setup), self._settings.limits.decode_s)
        except DecoderLost:
            raise BadMedia("no decoder can be had for what is stored") from None

    def _setup(self, width: int, height: int) -> Setup:
        limits = self._settings.limits
        return Setup(
            width=width,
            height=height,
            fps=1.0,
            quality=self._settings.jpeg_quality,
            max_pixels=limits.picture_pixels,
            memory_bytes=limits.decoder_bytes,
            cpu_seconds=limits.decode_cpu_s,
        )


def _track_of(recording: Recording, kind: Kind, track: int | None, from_ms: int, to_ms: int) -> int | None:
    """The track asked for, or the one with the most records of the kind in the span; None where there are none."""
    found = [
        extent
        for extent in recording.extents()
        if extent.kind is kind
        and (kind is Kind.FRAME or extent.codec in MP4_CODECS)
        and track in (None, extent.track)
        and extent.first_ms <= to_ms
        and extent.last_ms >= from_ms
    ]
    return max(found, key=lambda extent: extent.records).track if found else None


def _entry_point(recording: Recording, track: int | None, from_ms: int, to_ms: int) -> EntryPoint | None:
    """Where the decoding of the span's video begins, if units of it are stored."""
    number = _track_of(recording, Kind.MEDIA, track, from_ms, to_ms)
    point = None if number is None else recording.entry_point(number, from_ms)
    return point if point is not None and point.t_ms <= to_ms else None


def _media(recording: Recording, point: EntryPoint, to_ms: int) -> Iterator[Kept]:
    """Units that can be decoded: after one that is missing, from the next key frame on; all of one codec."""
    synced, expected = False, -1
    for kept in recording.records(Kind.MEDIA, point.track, point.t_ms, to_ms):
        head = kept.head
        if head.codec != point.codec:
            return
        synced = head.key or (synced and head.sequence == expected)
        expected = head.sequence + 1
        if synced:
            yield kept


def _frames(recording: Recording, track: int | None, from_ms: int, to_ms: int) -> Iterator[Kept]:
    """The sampled frames of the span; it begins with the one that was to be seen then."""
    number = _track_of(recording, Kind.FRAME, track, from_ms, to_ms)
    within = iter(()) if number is None else recording.records(Kind.FRAME, number, from_ms, to_ms)
    first = next(within, None)
    if first is None:
        return
    before = recording.frame(from_ms, number)
    if before is not None and before.head.t_ms < from_ms:
        yield Kept(replace(before.head, t_ms=from_ms), before.body)
    yield first
    yield from within


def _parts(kept: Iterable[Kept], to_ms: int) -> Iterator[tuple[int, ClipPart]]:
    """The clip's start, and its units in pieces of a size that a decoder takes at once."""
    start_ms: int | None = None
    part: list[ClipUnit] = []
    size = 0
    for t_ms, duration_ms, record in _timed(kept, to_ms):
        start_ms = t_ms if start_ms is None else start_ms
        part.append(ClipUnit(t_ms - start_ms, duration_ms, record.head.key, record.body))
        size += len(record.body)
        if size >= PART_BYTES or len(part) >= PART_UNITS:
            yield start_ms, ClipPart(units=part)
            part, size = [], 0
    if part and start_ms is not None:
        yield start_ms, ClipPart(units=part)


def _timed(kept: Iterable[Kept], to_ms: int) -> Iterator[tuple[int, int, Kept]]:
    """Each record with its time, which grows, and how long it is seen: until the next one, the last one as long as the
    one before it.
    """
    waiting: tuple[int, Kept] | None = None
    duration_ms = UNKNOWN_MS
    for record in kept:
        if waiting is not None:
            at_ms, before = waiting
            duration_ms = max(record.head.t_ms - at_ms, 1)
            yield at_ms, duration_ms, before
            waiting = at_ms + duration_ms, record
        else:
            waiting = record.head.t_ms, record
    if waiting is not None:
        at_ms, record = waiting
        yield at_ms, max(min(duration_ms, to_ms - at_ms), SHORTEST_MS), record
