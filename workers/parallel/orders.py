"""What rank 0 tells the others: a step's plan, order by order, as plain data.

Orders travel over a Unix socket for each rank, framed as between worker and engine (`engine/wire.py`). Whoever gets one
does its share of it, in lockstep with rank 0 and the others where they have to agree (`core.Team`). What is on the
devices already is not sent: features are shared by the ranks when pictures are encoded, tokens that the host has not
read and what is told of a compaction's candidates go from device to device. Pictures lie in memory that all map.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from workers.engine.settings import EngineSettings

NOTHING = -1


class Array(msgspec.Struct, frozen=True, array_like=True):
    """A NumPy array: its type as NumPy spells it, its shape, its bytes in C order."""

    kind: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> Array:
        return cls(array.dtype.str, array.shape, array.tobytes())

    def array(self) -> NDArray[Any]:
        """A writable copy."""
        return np.frombuffer(self.data, dtype=self.kind).reshape(self.shape).copy()


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be done by every rank."""


class Begin(Order, frozen=True, kw_only=True, tag="begin"):
    """An engine of these settings begins; what there was of another is gone."""

    settings: EngineSettings


class Warm(Order, frozen=True, kw_only=True, tag="warm"):
    """All that can be prepared is."""


class Look(msgspec.Struct, frozen=True, array_like=True):
    """A picture in the ring, for `rank` to encode; `name`: what its features are called.

    `stream` and `patches`: what is wanted of it (perception's Change); no stream: all.
    """

    slot: int
    height: int
    width: int
    rank: int
    name: int
    stream: str
    patches: Array | None


class Encode(Order, frozen=True, kw_only=True, tag="encode"):
    """Pictures; each rank reports as `Encoded` once it needs its own no more, and shares their features."""

    pictures: list[Look]


class Keys(msgspec.Struct, frozen=True, array_like=True):
    """A part, and what it is called."""

    name: int
    slots: Array
    turn: int
    biased: bool


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A work. `follows`: its token is known to rank 0's device alone. `features`: whose `patches` (None: all)."""

    tokens: Array
    positions: Array
    slots: Array
    parts: list[int]
    wanted: bool
    follows: bool
    features: int
    patches: Array | None


class Pass(Order, frozen=True, kw_only=True, tag="pass"):
    """Works through the decoder. `parts` are new ones; `gone` and `faded` are parts and features not needed again."""

    rows: list[Row]
    parts: list[Keys]
    gone: list[int]
    faded: list[int]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A gathering (`memory/compaction.py`); what is told of its candidates comes from device to device."""

    sources: Array
    targets: Array
    turns: Array
    recent: Array
    recent_told: Array
    places: int
    rank: str


class Gather(Order, frozen=True, kw_only=True, tag="gather"):
    jobs: list[Job]


class Clear(Order, frozen=True, kw_only=True, tag="clear"):
    """Slots [n] that are nobody's any more."""

    slots: Array


AnyOrder = Begin | Warm | Encode | Pass | Gather | Clear


class Encoded(msgspec.Struct, frozen=True, tag="encoded"):
    """A rank has read its pictures; `seen`: which of their tokens were computed, None standing for all."""

    seen: list[Array | None]


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """A rank ends, and says why."""

    message: str


Report = Encoded | Broken
