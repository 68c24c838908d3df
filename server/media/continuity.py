"""What lets decoding go on after a decoder is lost: each track's preamble, and whether a key frame is wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from server.media.jobs import Encoded, Preamble, Unit

Keep = Callable[[Preamble], Awaitable[None]]


async def keep_nowhere(preamble: Preamble) -> None:
    """For sessions that no other gateway can take up."""


class Continuity:
    """Of one session's tracks, as its gateway sees them.

    Args:
        kept: preambles of the tracks, where another gateway fed the session before.
        keep: puts a preamble where the next gateway finds it.
    """

    def __init__(self, kept: Mapping[int, Preamble] | None = None, keep: Keep = keep_nowhere) -> None:
        self._preambles = dict(kept or {})
        self._keep = keep
        self._decoding: set[int] = set()  # tracks that the decoder of now has begun with
        self._wanted: set[int] = set()  # tracks whose client was asked for a key frame

    def prepared(self, job: Encoded) -> Encoded:
        """The job as the decoder is to get it: a track's first comes with what its decoding must begin with."""
        if job.track in self._decoding:
            return job
        self._decoding.add(job.track)
        preamble = self._preambles.get(job.track)
        form = job.codec if isinstance(job, Unit) else job.form
        if preamble is None or preamble.form != form:
            return job
        return msgspec.structs.replace(job, preamble=preamble)

    async def found(self, preamble: Preamble) -> None:
        """The decoder has seen a new preamble."""
        self._preambles[preamble.track] = preamble
        await self._keep(preamble)

    def lost(self) -> set[int]:
        """The decoder is gone. Returns the tracks that it was decoding, whose pictures are lost up to a key frame."""
        tracks, self._decoding = self._decoding, set()
        return tracks

    def wants_keyframe(self, track: int, wanted: bool) -> bool:
        """Note whether a track needs a key frame; whether that is news to its client."""
        news = wanted and track not in self._wanted
        if wanted:
            self._wanted.add(track)
        else:
            self._wanted.discard(track)
        return news
