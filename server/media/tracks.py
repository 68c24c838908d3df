"""What the gateway remembers of each track of a session's media."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from server.media.jobs import PCM_RATE
from server.media.sampler import Sampler


class Codec(IntEnum):
    """Codec numbers of the binary chunk header."""

    JPEG = 1
    PNG = 2
    WEBP = 3
    PCM16 = 4
    H264 = 5


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
    newest_ms: int = -1
    offered: int = -1  # sequence of the newest chunk taken
    finished: int = -1  # sequence of the newest chunk that left the decoder
    pending: int = 0
    received: int = 0
    keyframe_wanted: bool = False
    told: set[str] = field(default_factory=set)  # refusals that the client heard of already

    def take(self, sequence: int, t_ms: int) -> None:
        self.offered, self.newest_ms = sequence, t_ms
        self.received += 1

    def repeats(self, sequence: int, t_ms: int) -> bool:
        """Whether a chunk was taken before: a client that lost its connection sends again what was not acknowledged."""
        return sequence <= self.offered and t_ms <= self.newest_ms

    def continues(self, sequence: int) -> bool:
        return self.offered < 0 or sequence == self.offered + 1

    @property
    def settled(self) -> int:
        """Sequence up to which all chunks are settled, -1 for none."""
        return self.finished if self.pending else self.offered
