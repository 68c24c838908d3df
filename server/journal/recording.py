"""A recorded session as it is read: what is there, the frame of a moment, the media of a span, what was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from server.journal.entries import Entry, Extent, Head, Kind, Said, decode_said, merged
from server.journal.segments import Segment, segments
from server.journal.vault import SessionKey


@dataclass(frozen=True)
class Kept:
    """A record that was found."""

    head: Head
    body: bytes


@dataclass(frozen=True)
class EntryPoint:
    """Where the decoding of a track can begin: the unit's session time, and the parameter sets that came before it."""

    track: int
    t_ms: int
    codec: str
    preamble: bytes


@dataclass(frozen=True)
class _Found:
    segment: Segment
    entry: Entry

    @property
    def t_ms(self) -> int:
        return self.entry.head.t_ms


class Recording:
    """Reads one session's folder. Blocking; every call sees the disk as it is then, and may raise OSError."""

    def __init__(self, folder: Path, key: SessionKey) -> None:
        self._folder = folder
        self.key = key

    def extents(self) -> list[Extent]:
        """What is stored: one extent for each kind, track and codec."""
        return merged(extent for _, extents in self._surveyed() for extent in extents)

    def frame(self, at_ms: int, track: int | None = None) -> Kept | None:
        """The newest sampled frame at or before ``at_ms``, of one track or of any."""
        found = self._newest(Kind.FRAME, track, at_ms, lambda head: True)
        return None if found is None else _read(found)

    def entry_point(self, track: int, at_ms: int) -> EntryPoint | None:
        """Where decoding can begin for a span that begins at ``at_ms``: at or before it, or else soon after."""
        found = self._newest(Kind.MEDIA, track, at_ms, lambda head: head.key) or self._first_key(track, at_ms)
        if found is None:
            return None
        before = [
            entry
            for entry in found.segment.entries()
            if entry.head.kind is Kind.PREAMBLE
            and entry.head.track == track
            and entry.slot.number < found.entry.slot.number
        ]
        preamble = _read(_Found(found.segment, before[-1])) if before else None
        codec = found.entry.head.codec
        return EntryPoint(track, found.t_ms, codec, b"" if preamble is None else preamble.body)

    def records(self, kind: Kind, track: int | None, from_ms: int, to_ms: int) -> Iterator[Kept]:
        """Records of a kind from ``from_ms`` up to and including ``to_ms``, in the order in which they came."""
        for segment, extents in self._surveyed():
            if any(_meets(extent, kind, track, from_ms, to_ms) for extent in extents):
                wanted = [entry for entry in segment.entries() if _among(entry.head, kind, track, from_ms, to_ms)]
                yield from (Kept(entry.head, body) for entry, body in segment.bodies(wanted))

    def texts(self, from_ms: int, to_ms: int) -> list[tuple[int, Said]]:
        """Questions and outcomes about the span, with the session time that each is about; none of them twice."""
        found: dict[tuple[str, str], tuple[int, Said]] = {}
        for kept in self.records(Kind.TEXT, None, from_ms, to_ms):
            try:
                said = decode_said(kept.body)
            except msgspec.MsgspecError:
                continue
            found.setdefault((said.by, said.question_id), (kept.head.t_ms, said))
        return list(found.values())

    def _newest(self, kind: Kind, track: int | None, at_ms: int, wanted: Callable[[Head], bool]) -> _Found | None:
        """The newest wanted record at or before ``at_ms``; segments that cannot hold it are not opened."""
        candidates: list[tuple[int, Segment]] = []
        for segment, extents in self._surveyed():
            met = [extent.last_ms for extent in extents if _meets(extent, kind, track, 0, at_ms)]
            if met:
                candidates.append((max(met), segment))
        newest: _Found | None = None
        for last_ms, segment in sorted(candidates, key=lambda candidate: candidate[0], reverse=True):
            if newest is not None and last_ms < newest.t_ms:
                break
            for entry in segment.entries():
                head = entry.head
                later = newest is None or head.t_ms >= newest.t_ms
                if later and _among(head, kind, track, 0, at_ms) and wanted(head):
                    newest = _Found(segment, entry)
        return newest

    def _first_key(self, track: int, after_ms: int) -> _Found | None:
        for segment, _ in self._surveyed():
            for entry in segment.entries():
                head = entry.head
                if head.kind is Kind.MEDIA and head.track == track and head.key and head.t_ms > after_ms:
                    return _Found(segment, entry)
        return None

    def _surveyed(self) -> Iterator[tuple[Segment, list[Extent]]]:
        for segment in segments(self._folder, self.key):
            try:
                yield segment, segment.extents()
            except (FileNotFoundError, ValueError):
                continue  # expired just now, or cut off before its first record


def _meets(extent: Extent, kind: Kind, track: int | None, from_ms: int, to_ms: int) -> bool:
    same = extent.kind is kind and track in (None, extent.track)
    return same and extent.first_ms <= to_ms and extent.last_ms >= from_ms


def _among(head: Head, kind: Kind, track: int | None, from_ms: int, to_ms: int) -> bool:
    return head.kind is kind and track in (None, head.track) and from_ms <= head.t_ms <= to_ms


def _read(found: _Found) -> Kept | None:
    return next((Kept(entry.head, body) for entry, body in found.segment.bodies([found.entry])), None)
