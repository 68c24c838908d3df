"""What a connection has told its client of the tracks that it feeds, and what there is to tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Progress = tuple[int, int, int]  # a track, the sequence up to which it is settled, and the chunks that were received


class Acknowledgements:
    """Tells each progress once."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, int]] = {}
        self._settled_at: dict[int, float] = {}

    def due(self, tracks: Iterable[Progress], now: float, *, pause_s: float = 0.0) -> Iterator[Progress]:
        """The progress of the tracks that have got on, but for those of whose settling was told within ``pause_s``.

        What was received without being settled is no answer to anybody, so it puts no answer off.
        """
        for track, settled, received in tracks:
            before, _ = told = self._told.get(track, (-1, 0))
            rested = now - self._settled_at.get(track, -pause_s) >= pause_s
            if rested and told != (settled, received):
                self._told[track] = settled, received
                if settled > before:
                    self._settled_at[track] = now
                yield track, settled, received
