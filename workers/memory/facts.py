"""What is known of each token in a session's memory: the table that slots' token ids point into."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.core import Kind, Positions

FACT = np.dtype(
    [
        ("kind", np.uint8),
        ("time_ms", np.int64),  # session time of a frame, of the newest frame before a text
        ("grid", np.int32),  # number of the frame in its session, -1 for text
        ("patch", np.int32),  # row-major place in the frame, -1 for text
        ("position", np.int64, (3,)),  # as the key was rotated when it was stored
    ]
)
SINKS = 4
_FIRST_ROWS = 256


class Facts:
    """Rows of FACT by token id. Ids only grow; the rows of forgotten tokens are used again."""

    def __init__(self) -> None:
        self._rows = np.zeros(_FIRST_ROWS, dtype=FACT)
        self._ids = np.zeros(_FIRST_ROWS, dtype=np.int32)
        self._alive = np.zeros(_FIRST_ROWS, dtype=np.bool_)
        self._used = 0
        self._next_id = 0
        self.places = 1
        """All patches that there ever were are below it."""

    def __len__(self) -> int:
        """Tokens that are known."""
        return int(self._alive[: self._used].sum())

    def add(
        self,
        kind: Kind,
        positions: Positions,
        time_ms: int,
        grid: int = -1,
        patches: NDArray[np.int64] | None = None,
    ) -> int:
        """Rows for the tokens at `positions` [3, n]. The first id.

        A frame's are its `patches`, or without them all there are, in their order. A header's first tokens are the
        sinks, on which attention rests (StreamingLLM, arXiv:2309.17453).
        """
        count = positions.shape[1]
        self._make_room(count)
        first, start, stop = self._next_id, self._used, self._used + count
        rows = self._rows[start:stop]
        rows["kind"], rows["time_ms"], rows["grid"], rows["patch"] = kind, time_ms, grid, -1
        rows["position"] = positions.T
        if kind == Kind.FRAME:
            rows["patch"] = np.arange(count) if patches is None else patches
            self.places = max(self.places, int(rows["patch"].max(initial=0)) + 1)
        elif kind == Kind.SYSTEM:
            rows["kind"][:SINKS] = Kind.SINK
        self._ids[start:stop] = np.arange(first, first + count)
        self._alive[start:stop] = True
        self._used, self._next_id = stop, first + count
        return first

    def of(self, ids: NDArray[np.integer]) -> NDArray[np.void]:
        """Rows of FACT, in the shape of `ids`. KeyError names an id that is not known."""
        return self._rows[self._index(ids)]

    def told(self, ids: NDArray[np.integer]) -> NDArray[np.int32]:
        """Id, patch and position of tokens `ids` [n], as [5, n]."""
        rows = self.of(ids)
        return np.vstack([ids, rows["patch"], rows["position"].T]).astype(np.int32)

    def move(self, ids: NDArray[np.integer], to: NDArray[np.integer]) -> None:
        """Records that the keys of `ids` [n] now are as rotated to positions `to` [n, 3]."""
        self._rows["position"][self._index(ids)] = to

    def forget(self, ids: NDArray[np.integer]) -> None:
        """Drops tokens that are in no plane any more."""
        self._alive[self._index(ids)] = False

    def _index(self, ids: NDArray[np.integer]) -> NDArray[np.intp]:
        known = self._ids[: self._used]
        index = np.searchsorted(known, ids)
        inside = np.minimum(index, max(self._used - 1, 0))
        found = (index < self._used) & (known[inside] == ids) & self._alive[inside] if self._used else index < 0
        if not found.all():
            raise KeyError(f"token {np.asarray(ids)[~found].flat[0]} is not in memory")
        return index

    def _make_room(self, count: int) -> None:
        """Squeezes out forgotten rows when space is short; grows only if most rows are alive."""
        if self._used + count <= len(self._rows):
            return
        kept = np.flatnonzero(self._alive[: self._used])
        size = max(len(self._rows), _FIRST_ROWS)
        while size < 2 * (len(kept) + count):
            size *= 2
        self._rows, self._ids, self._alive = (
            np.concatenate([column[kept], np.zeros(size - len(kept), column.dtype)])
            for column in (self._rows, self._ids, self._alive)
        )
        self._used = len(kept)
