"""Decoding as CUDA graphs: one for each size of batch, each launched as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from workers.core import Query
from workers.models.capture import Captured
from workers.models.decoder import Attend, Decoder

BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
_SLOTS_EACH = 16_384


class FixedAttend(Attend, Protocol):
    """Attention that a graph can hold: planned anew before each replay."""

    def admits(self, queries: Sequence[Query]) -> bool: ...

    def plan(self, queries: Sequence[Query]) -> None: ...


@runtime_checkable
class Capturable(Protocol):
    """Attention that offers it."""

    def fixed(self, batch: int, slots: int, spare: int) -> FixedAttend:
        """For up to `batch` single tokens that see `slots` slots in all; slot `spare` is nobody's."""
        ...


class DecodeGraphs:
    """One token each for up to 128 sequences; a batch runs in the smallest graph that holds it."""

    def __init__(self, decoder: Decoder, attention: Capturable, spare: int) -> None:
        self._decoder, self._attention, self._spare = decoder, attention, spare
        self._graphs: dict[int, DecodeGraph] = {}

    def warm(self, batches: Sequence[int] = BATCHES) -> None:
        """Captures graphs beforehand, so that no answer waits for it."""
        for batch in batches:
            self._graph(batch)

    def admit(self, queries: Sequence[Query]) -> bool:
        """Whether a graph can do these."""
        return len(queries) <= BATCHES[-1] and self._graph(len(queries)).attend.admits(queries)

    def run(self, tokens: Tensor, positions: Tensor, queries: Sequence[Query]) -> Tensor:
        """Logits [n, vocabulary] after tokens [n] at positions [3, n], until the next run."""
        return self._graph(len(queries)).run(tokens, positions, queries)

    def _graph(self, count: int) -> DecodeGraph:
        batch = next(batch for batch in BATCHES if batch >= count)
        if batch not in self._graphs:
            attend = self._attention.fixed(batch, batch * _SLOTS_EACH, self._spare)
            self._graphs[batch] = DecodeGraph(self._decoder, attend, batch)
        return self._graphs[batch]


class DecodeGraph:
    """The graph for one size of batch; what is left over of it writes to the spare slot, and nobody reads it."""

    def __init__(self, decoder: Decoder, attend: FixedAttend, batch: int) -> None:
        device = decoder.embed_tokens.weight.device
        self.attend = attend
        self._tokens = torch.zeros(batch, dtype=torch.int64, device=device)
        self._positions = torch.zeros(3, batch, dtype=torch.int64, device=device)

        def decode() -> Tensor:
            rotation = decoder.rope.rotation(self._positions)
            return decoder.logits(decoder(decoder.embed(self._tokens), rotation, attend))

        with torch.inference_mode():
            self._captured = Captured(decode, device)

    def run(self, tokens: Tensor, positions: Tensor, queries: Sequence[Query]) -> Tensor:
        count = len(queries)
        self.attend.plan(queries)
        self._tokens[:count].copy_(tokens)
        self._positions[:, :count].copy_(positions)
        return self._captured.replay()[:count]
