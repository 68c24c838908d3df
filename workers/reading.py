"""Where an owner stands in the lanes of its session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.ids import START, EntryId
from protocol.leases import Cursor, LaneEntry, Lease
from protocol.messages import Lane


class Reading:
    """Cursors that move in two steps: ``after`` says where a batch would leave them, ``move`` leaves them there."""

    def __init__(self, lease: Lease) -> None:
        self._cursors: dict[Lane, Cursor] = {
            "control": Cursor(lease.control_cursor, 0),
            "audio": Cursor(START, 0),
            "video": Cursor(START, 0),
        }

    def at(self, lane: Lane) -> EntryId:
        return self._cursors[lane].id

    def after(self, entries: Sequence[LaneEntry]) -> dict[Lane, Cursor]:
        """Cursors of the lanes that ``entries`` belong to, once those are read."""
        moved: dict[Lane, Cursor] = {}
        for entry in entries:
            before = moved.get(entry.lane, self._cursors[entry.lane])
            moved[entry.lane] = Cursor(entry.id, before.count + 1)
        return moved

    def missed(self, lane: Lane, entries: Sequence[LaneEntry]) -> int:
        """Entries that the lane dropped before they could be read: ids of one publisher have no holes."""
        missed, before = 0, self._cursors[lane].id
        for entry in entries:
            if entry.lane == lane:
                if entry.id.major == before.major:
                    missed += entry.id.minor - before.minor - 1
                before = entry.id
        return missed

    def move(self, cursors: Mapping[Lane, Cursor]) -> None:
        self._cursors.update(cursors)
