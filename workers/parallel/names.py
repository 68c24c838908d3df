"""Names for things that the other ranks have copies of."""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import ref

T = TypeVar("T")


class Names(Generic[T]):
    """Gives each thing a number for as long as it lives. No number is given twice."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[T], int]] = {}
        self._gone: list[int] = []
        self._given = 0

    def __len__(self) -> int:
        """How many are known."""
        return len(self._known)

    def reserve(self) -> int:
        """A number for a thing that is yet to be."""
        self._given += 1
        return self._given - 1

    def give(self, thing: T, number: int) -> None:
        """Lets a thing that has none have a number that was reserved."""
        place = id(thing)
        self._known[place] = ref(thing, lambda _: self._forget(place)), number

    def find(self, thing: T) -> int | None:
        """The number of a thing, if it has one."""
        known = self._known.get(id(thing))
        return None if known is None else known[1]

    def gone(self) -> list[int]:
        """The numbers of things that are no more, each told once."""
        gone, self._gone = self._gone, []
        return gone

    def _forget(self, place: int) -> None:
        self._gone.append(self._known.pop(place)[1])
