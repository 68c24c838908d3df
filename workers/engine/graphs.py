"""Passes through the decoder as CUDA graphs: one for each size, each launched as a whole.

Launched one by one, its some 400 kernels cost the host 15 to 30 ms: more than a frame or a question costs the device,
and more than there is where the host also has dozens of sessions to lead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from workers.attention.mixed import SLOTS_EACH
from workers.core import Query, singles
from workers.models.capture import Captured, Memory
from workers.models.decoder import Attend, Decoder, Deepstack

BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
_ROWS = (16, 32, 64, 128, 192)
_OPENING = 16  # tokens of text that come with a frame, at most
_SEQUENCES = 8
_BESIDE = (8, 32, 64)  # single tokens in a pass with others
_SHORT = 64  # rows of the others, at least
_FRAMES = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)  # of so many frames, of which each opens with some text
_TEXT = 8
_OTHERS = 24  # sequences of several tokens in a mixed pass
_MIXED_FROM = 2  # single tokens: what attends to frames takes half a millisecond for each of the 7B's


class FixedAttend(Attend, Protocol):
    """Attention that a graph can hold: planned anew before each replay."""

    def plan(self, queries: Sequence[Query]) -> bool:
        """Prepares the next run; False if it cannot hold these."""
        ...


@runtime_checkable
class Capturable(Protocol):
    """Attention that offers it."""

    @property
    def mixed_rows(self) -> int:
        """The most rows of sequences of several tokens in a mixed pass; 0: there are to be no such passes."""
        ...

    def fixed(self, sequences: int, rows: int, slots: int, spare: int) -> FixedAttend:
        """For up to `rows` tokens of `sequences` that see `slots` slots in all; slot `spare` is nobody's."""
        ...

    def mixed(self, singles: int, rows: int, others: int, most: int, spare: int) -> FixedAttend:
        """For up to `singles` sequences of one token, and up to `rows` rows of others behind them, to be captured at
        once; of these there are `others` sequences and `most` rows at most, each time."""
        ...


class Size(NamedTuple):
    """What a graph has room for: tokens, sequences, and tokens whose logits are wanted, None standing for all.

    `levels`: of features that the layers add (Deepstack). `singles`: rows in front that are for single tokens alone,
    None in a pass that does not tell them apart.
    """

    rows: int
    sequences: int
    wanted: int | None
    levels: int = 0
    singles: int | None = None


class Graphs:
    """Single tokens of up to 128 sequences; up to two frames, or as many tokens of text, of up to 8; and mixed passes:
    up to 64 single tokens and eight frames, or what is left of more of them.

    A pass runs in the smallest graph that holds it.
    """

    def __init__(self, decoder: Decoder, attention: Capturable, spare: int, frame: int, levels: int = 0) -> None:
        """`frame`: tokens that a picture becomes; `levels`: of their features that the layers add."""
        self._decoder, self._attention, self._spare, self._levels = decoder, attention, spare, levels
        self._memory = Memory(decoder.embed_tokens.weight.device)
        whole = frame + _OPENING
        rows = (*(rows for rows in _ROWS if rows < 2 * whole), whole, 3 * whole // 2, 2 * whole)
        self._rows = tuple(sorted(set(rows)))
        mixed = (_SHORT, *(int(frames * (frame + _TEXT)) + _TEXT for frames in _FRAMES))
        self._mixed = tuple(sorted({rows for rows in mixed if rows <= attention.mixed_rows}))
        self._most_mixed = self._mixed[-1] if self._mixed else 0
        self._inputs = Inputs(
            max(BATCHES[-1], self._rows[-1], _BESIDE[-1] + self._most_mixed), decoder.embed_tokens.weight
        )
        self._graphs: dict[Size, PassGraph] = {}

    def warm(self) -> None:
        """Captures graphs beforehand, so that no answer waits for it."""
        for batch in BATCHES:
            self._graph(Size(batch, batch, None))
        for rows in self._rows:
            self._graph(Size(rows, _SEQUENCES, _SEQUENCES))
            self._graph(Size(rows, _SEQUENCES, 0, self._levels))
        for rows in self._mixed:
            for alone in _BESIDE:
                self._graph(self._mixed_size(alone, rows))
            if rows > self._rows[-1]:
                self._graph(self._mixed_size(0, rows))

    def ready(self, queries: Sequence[Query], levels: int = 0) -> PassGraph | None:
        """The graph for these, planned; None if none holds them. `levels`: of what the layers add to them."""
        size = self._size(queries, levels)
        if size is None:
            return None
        graph = self._graph(size)
        return graph if graph.attend.plan(queries) else None

    def _size(self, queries: Sequence[Query], levels: int) -> Size | None:
        count, rows = len(queries), queries[-1].stop
        wanted = sum(query.wanted for query in queries)
        if wanted == rows <= BATCHES[-1]:
            batch = next(batch for batch in BATCHES if batch >= count)
            return Size(batch, batch, None, levels)
        alone, small = singles(queries), count <= _SEQUENCES and rows <= self._rows[-1]
        mixed = None if small and alone < _MIXED_FROM else self._mixed_for(alone, count, rows, wanted)
        if mixed is None and small:
            room = next(room for room in self._rows if room >= rows)
            return Size(room, _SEQUENCES, _SEQUENCES if wanted else 0, levels)
        return mixed

    def _mixed_for(self, alone: int, count: int, rows: int, wanted: int) -> Size | None:
        """For so many single tokens of `count` sequences with so many `rows` in all; None if there is none."""
        first = next((first for first in (0, *_BESIDE) if first >= alone and _wanted_in(first) >= wanted), None)
        others = next((others for others in self._mixed if others >= rows - alone), None)
        if first is None or others is None or not alone < count <= alone + _OTHERS:
            return None
        return self._mixed_size(first, others)

    def _mixed_size(self, alone: int, rows: int) -> Size:
        """With room for so many single tokens and rows of others; only among single tokens are some wanted."""
        return Size(alone + rows, alone + _OTHERS, _wanted_in(alone), self._levels, alone)

    def _graph(self, size: Size) -> PassGraph:
        if size not in self._graphs:
            if size.singles is None:
                attend = self._attention.fixed(size.sequences, size.rows, size.sequences * SLOTS_EACH, self._spare)
            else:
                attend = self._attention.mixed(
                    size.singles, size.rows - size.singles, _OTHERS, self._most_mixed, self._spare
                )
            self._graphs[size] = PassGraph(self._decoder, attend, size, self._inputs, self._memory)
        return self._graphs[size]


class Inputs:
    """What passes are given, in the first of so many rows: one pass runs at a time. All of it is finite."""

    def __init__(self, rows: int, weight: Tensor) -> None:
        """`weight`: the embeddings."""
        self.embeds = torch.zeros(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
        self.positions = torch.zeros(3, rows, dtype=torch.int64, device=weight.device)


class PassGraph:
    """The graph for one size of pass; what is left over of it writes to the spare slot, and nobody reads it."""

    def __init__(self, decoder: Decoder, attend: FixedAttend, size: Size, inputs: Inputs, memory: Memory) -> None:
        weight = decoder.embed_tokens.weight
        hidden, device = weight.shape[1], weight.device
        self.attend, self._singles = attend, size.singles
        self._embeds, self._positions = inputs.embeds[: size.rows], inputs.positions[:, : size.rows]
        self._wanted: Tensor | slice | None = None
        if size.wanted is not None:
            none = torch.zeros(size.wanted, dtype=torch.int64, device=device)
            self._wanted = none if size.wanted else slice(0, 0)
        self._deepstack: Deepstack | None = None
        if size.levels:
            features = torch.zeros(size.rows, size.levels * hidden, dtype=weight.dtype, device=device)
            self._deepstack = Deepstack(torch.arange(size.rows, device=device), features)

        def compute() -> Tensor:
            rotation = decoder.rope.rotation(self._positions)
            return decoder.logits(decoder(self._embeds, rotation, attend, self._wanted, self._deepstack))

        with torch.inference_mode():
            self._captured = Captured(compute, device, memory)

    def others_from(self, alone: int) -> int:
        """The row at which sequences of several tokens begin, behind so many of one token."""
        return alone if self._singles is None else self._singles

    def run(
        self, embeds: Tensor, positions: Tensor, wanted: Tensor | slice | None, deepstack: Deepstack | None
    ) -> Tensor:
        """Logits after the `wanted` rows, for what the graph was made ready for, until the next run.

        Embeds are [n, hidden], positions [3, n].
        """
        count = len(embeds)
        self._embeds[:count].copy_(embeds)
        self._positions[:, :count].copy_(positions)
        if isinstance(wanted, Tensor) and isinstance(self._wanted, Tensor):
            count = len(wanted)
            self._wanted[:count].copy_(wanted)
        if self._deepstack is not None:
            self._deepstack.features.zero_()
            if deepstack is not None:
                self._deepstack.features.index_copy_(0, deepstack.rows, deepstack.features)
        return self._captured.replay()[:count]


def _wanted_in(alone: int) -> int:
    """How many rows of a mixed pass with room for so many single tokens can be wanted."""
    return alone + _SEQUENCES if alone else 0
