"""How many sessions a worker has time for, by the share of step time that their frames are predicted to take."""

from __future__ import annotations

from collections.abc import Sequence

SHARE = 0.85  # of the time for frames; the rest is for answers, and for what nobody foresees


def sessions_admitted(rates: Sequence[float], frame_seconds: float, most: int) -> int:
    """How many sessions there may be in all: those with `rates` frames a second, and as many more with one.

    `frame_seconds`: what a frame takes, 0 if nobody knows; then `most` it is.
    """
    if not frame_seconds:
        return most
    left = SHARE - sum(rates) * frame_seconds
    return min(most, len(rates) + max(0, int(left / frame_seconds + 1e-9)))
