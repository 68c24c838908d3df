"""Passes through the decoder as CUDA graphs: one for each size, each launched as a whole.

Launched one by one, its some 400 kernels cost the host more time than a frame or a question costs the device. Large
passes go without: there the host is ahead of the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from workers.core import Query
from workers.models.capture import Captured, Memory
from workers.models.decoder import Attend, Decoder, Deepstack

BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
_ROWS = (16, 32, 64, 128, 192)
_OPENING = 16  # tokens of text that come with a frame, at most
_SEQUENCES = 8
_SLOTS_EACH = 16_384


class FixedAttend(Attend, Protocol):
    """Attention that a graph can hold: planned anew before each replay."""

    def plan(self, queries: Sequence[Query]) -> bool:
        """Prepares the next run; False if it cannot hold these."""
        ...


@runtime_checkable
class Capturable(Protocol):
    """Attention that offers it."""

    def fixed(self, sequences: int, rows: int, slots: int, spare: int) -> FixedAttend:
        """For up to `rows` tokens of `sequences` that see `slots` slots in all; slot `spare` is nobody's."""
        ...


class Size(NamedTuple):
    """What a graph has room for: tokens, sequences, and tokens whose logits are wanted, None standing for all.

    `levels`: of features that the layers add (Deepstack).
    """

    rows: int
    sequences: int
    wanted: int | None
    levels: int = 0


class Graphs:
    """Single tokens of up to 128 sequences, and up to two frames, or as many tokens of text, of up to 8.

    A pass runs in the smallest graph that holds it.
    """

    def __init__(self, decoder: Decoder, attention: Capturable, spare: int, frame: int, levels: int = 0) -> None:
        """`frame`: tokens that a picture becomes; `levels`: of their features that the layers add."""
        self._decoder, self._attention, self._spare, self._levels = decoder, attention, spare, levels
        self._memory = Memory(decoder.embed_tokens.weight.device)
        whole = frame + _OPENING
        rows = (*(rows for rows in _ROWS if rows < 2 * whole), whole, 3 * whole // 2, 2 * whole)
        self._rows = tuple(sorted(set(rows)))
        self._graphs: dict[Size, PassGraph] = {}

    def warm(self) -> None:
        """Captures graphs beforehand, so that no answer waits for it."""
        for batch in BATCHES:
            self._graph(Size(batch, batch, None))
        for rows in self._rows:
            self._graph(Size(rows, _SEQUENCES, _SEQUENCES))
            self._graph(Size(rows, _SEQUENCES, 0, self._levels))

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
        if count > _SEQUENCES or rows > self._rows[-1]:
            return None
        return Size(next(size for size in self._rows if size >= rows), _SEQUENCES, _SEQUENCES if wanted else 0, levels)

    def _graph(self, size: Size) -> PassGraph:
        if size not in self._graphs:
            slots = size.sequences * _SLOTS_EACH
            attend = self._attention.fixed(size.sequences, size.rows, slots, self._spare)
            self._graphs[size] = PassGraph(self._decoder, attend, size, self._memory)
        return self._graphs[size]


class PassGraph:
    """The graph for one size of pass; what is left over of it writes to the spare slot, and nobody reads it."""

    def __init__(self, decoder: Decoder, attend: FixedAttend, size: Size, memory: Memory) -> None:
        weight = decoder.embed_tokens.weight
        hidden, device = weight.shape[1], weight.device
        self.attend = attend
        self._embeds = torch.zeros(size.rows, hidden, dtype=weight.dtype, device=device)
        self._positions = torch.zeros(3, size.rows, dtype=torch.int64, device=device)
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
        if self._deepstack is not None and deepstack is not None:
            self._deepstack.features.zero_().index_copy_(0, deepstack.rows, deepstack.features)
        return self._captured.replay()[:count]
