"""What is wrong with a session's stream although it can be decoded: frozen, black, blocky pictures, silent sound.

Judged by session time on what decoders measured of the sampled pictures, with hysteresis: a condition begins once it
has held for a while, and is over at the first clear sign of the contrary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from server.media.jobs import Look, PictureOut, SoundOut

Condition = Literal["frozen", "black", "blocky", "silent"]

MESSAGES: dict[Condition, str] = {
    "frozen": "the picture does not change",
    "black": "the picture is black",
    "blocky": "the picture is damaged, or compressed too much to be seen well",
    "silent": "there is no sound on the track",
}
AFTER_MS: dict[Condition, int] = {"frozen": 10_000, "black": 5_000, "blocky": 5_000, "silent": 10_000}
FEWEST = 4  # observations: two pictures a minute apart say little about what was between them

SAME, OTHER = 0.5, 1.0  # mean difference in grey levels: a sensor's noise alone makes more than the second
DARK = 28  # video's black is 16, a lens cap's noise a little more
DARK_SHARE, LIT_SHARE = 0.98, 0.9
BLOCKS, SMOOTH = 2.5, 1.8  # JPEG of quality 20 and below shows the first, of 50 and above less than the second
HUSH, SOUND = 32, 64  # peak of 16-bit samples: -60 and -54 dB of full scale


@dataclass(frozen=True)
class Change:
    """A condition of a track has begun, or is over. ``since_ms`` is when it was first seen."""

    condition: Condition
    track: int
    begun: bool
    since_ms: int
    at_ms: int

    @property
    def state(self) -> str:
        return "begun" if self.begun else "over"


class Episodes:
    """One condition of one track."""

    def __init__(self, condition: Condition, track: int) -> None:
        self.active = False
        self._condition = condition
        self._track = track
        self._since_ms = -1
        self._count = 0

    def observe(self, t_ms: int, *, holds: bool, over: bool) -> Iterator[Change]:
        """``over`` ends what has begun; what is neither changes nothing that has."""
        if self.active:
            if over:
                self.active = False
                yield self._change(t_ms)
                self._since_ms = -1
        elif not holds:
            self._since_ms = -1
        elif self._since_ms < 0:
            self._since_ms, self._count = t_ms, 1
        else:
            self._count += 1
            if t_ms - self._since_ms >= AFTER_MS[self._condition] and self._count >= FEWEST:
                self.active = True
                yield self._change(t_ms)

    def _change(self, t_ms: int) -> Change:
        return Change(self._condition, self._track, self.active, self._since_ms, t_ms)


class TrackHealth:
    """One track's conditions."""

    def __init__(self, track: int) -> None:
        self.episodes = {condition: Episodes(condition, track) for condition in MESSAGES}
        self._before: np.ndarray[tuple[int], np.dtype[np.int16]] | None = None

    def picture(self, look: Look, t_ms: int) -> Iterator[Change]:
        points = np.frombuffer(look.points, np.uint8).astype(np.int16)
        before, self._before = self._before, points
        if before is not None and len(before) == len(points):
            moved = float(np.abs(points - before).mean())
            yield from self.episodes["frozen"].observe(t_ms, holds=moved < SAME, over=moved >= OTHER)
        dark = float((points <= DARK).mean())
        yield from self.episodes["black"].observe(t_ms, holds=dark >= DARK_SHARE, over=dark < LIT_SHARE)
        blocky, smooth = look.blocks >= BLOCKS or look.damaged, look.blocks < SMOOTH and not look.damaged
        yield from self.episodes["blocky"].observe(t_ms, holds=blocky, over=smooth)

    def sound(self, pcm: bytes, t_ms: int) -> Iterator[Change]:
        """``pcm``: s16le mono."""
        samples = np.frombuffer(pcm, np.dtype("<i2"))
        if len(samples):
            peak = max(int(samples.max()), -int(samples.min()))
            yield from self.episodes["silent"].observe(t_ms, holds=peak <= HUSH, over=peak > SOUND)


class StreamHealth:
    """All tracks of one session."""

    def __init__(self) -> None:
        self._tracks: dict[int, TrackHealth] = {}

    def observe(self, media: PictureOut | SoundOut) -> list[Change]:
        """What a picture or a piece of sound in its lane changes."""
        track = self._of(media.track)
        if isinstance(media, SoundOut):
            return list(track.sound(media.pcm, media.t_ms))
        return [] if media.look is None else list(track.picture(media.look, media.t_ms))

    @property
    def conditions(self) -> dict[str, list[int]]:
        """The tracks that each condition holds of now; without those that hold of none."""
        found = {name: [n for n, of in self._tracks.items() if of.episodes[name].active] for name in MESSAGES}
        return {name: tracks for name, tracks in found.items() if tracks}

    def _of(self, track: int) -> TrackHealth:
        if track not in self._tracks:
            self._tracks[track] = TrackHealth(track)
        return self._tracks[track]
