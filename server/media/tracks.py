"""What the gateway remembers of each track of a session's media."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from server.media.jobs import PCM_RATE
from server.media.sampler import Sampler

REMEMBERED = 512  # more chunks of a track than a client keeps without an acknowledgement


class Codec(IntEnum):
    """Codec numbers of the binary chunk header."""

    JPEG = 1
    PNG = 2
    WEBP = 3
    PCM16 = 4
    H264 = 5
    H265 = 6
    VP8 = 7
    VP9 = 8
    AV1 = 9
    OPUS = 10
    AAC = 11
    MP4 = 12
    WEBM = 13


@dataclass(frozen=True)
class Chunk:
    """One binary message of a client: its header's fields and the payload."""

    codec: Codec
    track: int
    sequence: int
    capture_us: int
    data: bytes


@dataclass
class Track:
    """One track. A chunk is settled once it is in its lane, was left out by the sampler, or was refused."""

    number: int
    sampler: Sampler
    rate: int = PCM_RATE
    channels: int = 1
    offered: int = -1  # sequence of the newest chunk taken
    finished: int = -1  # sequence of the newest chunk that left the decoder
    pending: int = 0
    received: int = 0
    refusing: bool = False  # the newest chunk was refused for its capture time
    _taken: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def take(self, sequence: int, capture_us: int) -> None:
        self.offered = sequence
        self.received += 1
        self.refusing = False
        self._taken.append((sequence, capture_us))

    def refuse(self, sequence: int) -> bool:
        """Settle a chunk whose capture time is refused; whether it is the first of a run of them."""
        first, self.refusing = not self.refusing, True
        self.offered = sequence
        self.received += 1
        return first

    def repeats(self, sequence: int, capture_us: int) -> bool:
        """Whether a chunk was taken before: a client that lost its connection sends again what was not acknowledged."""
        return sequence <= self.offered and (sequence, capture_us) in self._taken

    def continues(self, sequence: int) -> bool:
        """Whether no chunk is missing before this one."""
        return self.offered < 0 or (sequence == self.offered + 1 and not self.refusing)

    @property
    def settled(self) -> int:
        """Sequence up to which all chunks are settled, -1 for none."""
        return self.finished if self.pending else self.offered
