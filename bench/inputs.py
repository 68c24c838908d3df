"""Hostile inputs by number: each is made of a seed and its number alone, so that any of them can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.mutations import mutate
from bench.samples import Sample

NUMBERED = ("jpeg", "png", "webp", "pcm", "h264", "h265", "vp8", "vp9", "av1", "opus", "aac", "mp4", "webm")
CODECS = {form: number for number, form in enumerate(NUMBERED, start=1)}  # numbers of the chunk header
STILLS = ("jpeg", "png", "webp")
CHUNK, FILE, POSTED = "chunk", "file", "posted"
BOMBS_IN_A_THOUSAND = 5
WRONG_HEADERS_IN_A_THOUSAND = 10
POSTED_IN_A_THOUSAND = 60
LONGEST_LEAD = 3


@dataclass(frozen=True)
class Input:
    """``pieces`` are sent one after the other, the damaged ones last. ``way`` is how: chunks of a socket, or a body.

    ``header`` is put over the chunk header's first bytes, where that is what is wrong.
    """

    number: int
    form: str
    how: str
    way: str
    pieces: tuple[bytes, ...]
    kind: str = ""
    header: bytes = b""


class Inputs:
    """All inputs of one seed, by number from 0 on."""

    def __init__(self, seed: int, samples: Sequence[Sample], bombs: Sequence[Sample]) -> None:
        self._seed = seed
        self._samples: dict[str, list[Sample]] = {}
        for sample in samples:
            self._samples.setdefault(sample.form, []).append(sample)
        self._bombs = [bomb for bomb in bombs if bomb.form in CODECS or bomb.kind]
        self.forms = [form for form in self._samples if form in CODECS or form == "file"]

    def make(self, number: int) -> Input:
        rng = Random(f"{self._seed}:{number}")  # a string: tuples have no hash that lasts
        chance = rng.randrange(1000)
        if chance < BOMBS_IN_A_THOUSAND and self._bombs:
            place = rng.randrange(len(self._bombs))
            bomb = self._bombs[place]
            return Input(number, bomb.form, f"bomb {place}", FILE if bomb.kind else CHUNK, bomb.pieces, bomb.kind)
        form = self.forms[number % len(self.forms)]
        sample = rng.choice(self._samples[form])
        if sample.kind:
            how, data = mutate(rng, sample.pieces[0])
            return Input(number, form, how, FILE, (data,), sample.kind)
        if chance >= 1000 - WRONG_HEADERS_IN_A_THOUSAND:
            header = bytes([rng.choice((0, 1, 2, 255)), rng.randrange(256), *rng.randbytes(rng.choice((0, 2, 6, 14)))])
            return Input(number, form, "header", CHUNK, (rng.choice(sample.pieces),), header=header)
        how, pieces = self._damaged(rng, sample)
        if form in STILLS and chance >= 1000 - POSTED_IN_A_THOUSAND - WRONG_HEADERS_IN_A_THOUSAND:
            return Input(number, form, how, POSTED, pieces, f"image/{form}")
        return Input(number, form, how, CHUNK, pieces)

    def _damaged(self, rng: Random, sample: Sample) -> tuple[str, tuple[bytes, ...]]:
        """A run of the sample's pieces, mostly from its head on: the last is damaged, sometimes others too."""
        first = 0 if rng.random() < 0.8 else rng.randrange(len(sample.pieces))
        run = sample.pieces[first : first + rng.randint(1, LONGEST_LEAD)]
        how, last = mutate(rng, run[-1])
        lead = [mutate(rng, piece)[1] if rng.random() < 0.1 else piece for piece in run[:-1]]
        return how, (*lead, last)
