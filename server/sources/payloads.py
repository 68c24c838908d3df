"""RTP payloads to what decoders take: one assembler for each track, chosen by the track's description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from server.sources.rtp import RtpPacket


@dataclass(frozen=True)
class AccessUnit:
    """One picture or piece of sound. ``lost``: something before it is missing."""

    timestamp: int
    data: bytes
    lost: bool = False


class Assembler(Protocol):
    def feed(self, packet: RtpPacket, *, lost: bool) -> Iterator[AccessUnit]:
        """The access units that ``packet`` completes; ``lost`` says that packets before it are missing."""
