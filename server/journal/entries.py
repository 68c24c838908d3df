"""What a journal holds: heads of records, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal

import msgspec

from server.journal.records import Slot

SaidBy = Literal["question", "answer"]


class Kind(IntEnum):
    """Kinds of records."""

    PREAMBLE = 1  # what a track's decoding begins with: parameter sets, or an init segment; again in every segment
    MEDIA = 2  # a chunk as the client sent it
    FRAME = 3  # a sampled picture, JPEG at the model's size
    TEXT = 4  # a question, or what became of it


class Head(msgspec.Struct, frozen=True, array_like=True):
    """A record's head. ``t_ms`` is session time; what follows the track is of media alone.

    Args:
        codec: as in ``track.open``.
        key: decoding may begin here.
    """

    kind: Kind
    t_ms: int
    track: int = 0
    codec: str = ""
    sequence: int = 0
    key: bool = False
    rate: int = 0
    channels: int = 0


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a text record: a question as it was asked, or its outcome.

    Args:
        at: Unix seconds.
        text: empty for an answer that failed; ``error`` is its code then.
    """

    by: SaidBy
    question_id: str
    at: float
    text: str
    mode: str = ""
    finish_reason: str = ""
    error: str = ""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A record's head and its place in its segment."""

    head: Head
    slot: Slot


class Extent(msgspec.Struct, array_like=True):
    """What a segment holds of one kind, track and codec: session times of the first and last, records, bytes."""

    kind: Kind
    track: int
    codec: str
    first_ms: int
    last_ms: int
    records: int = 0
    bytes: int = 0

    def add(self, other: Extent) -> None:
        self.first_ms = min(self.first_ms, other.first_ms)
        self.last_ms = max(self.last_ms, other.last_ms)
        self.records += other.records
        self.bytes += other.bytes


def extents_of(entries: Iterable[Entry]) -> list[Extent]:
    return merged(
        Extent(entry.head.kind, entry.head.track, entry.head.codec, entry.head.t_ms, entry.head.t_ms, 1, _size(entry))
        for entry in entries
        if entry.head.kind is not Kind.PREAMBLE
    )


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """One extent for each kind, track and codec."""
    found: dict[tuple[int, int, str], Extent] = {}
    for extent in extents:
        name = (extent.kind, extent.track, extent.codec)
        if name in found:
            found[name].add(extent)
        else:
            found[name] = msgspec.structs.replace(extent)
    return [found[name] for name in sorted(found)]


def _size(entry: Entry) -> int:
    return entry.slot.head_bytes + entry.slot.body_bytes


encode = msgspec.msgpack.Encoder().encode
_heads: msgspec.msgpack.Decoder[Head] = msgspec.msgpack.Decoder(Head)
_said: msgspec.msgpack.Decoder[Said] = msgspec.msgpack.Decoder(Said)
_entries: msgspec.msgpack.Decoder[list[Entry]] = msgspec.msgpack.Decoder(list[Entry])
_extents: msgspec.msgpack.Decoder[list[Extent]] = msgspec.msgpack.Decoder(list[Extent])
decode_head = _heads.decode
decode_said = _said.decode
decode_entries = _entries.decode
decode_extents = _extents.decode
