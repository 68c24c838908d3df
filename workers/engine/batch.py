"""One forward pass over new tokens of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import ALONE, Attention, Part, Positions, Query, Slots, Team, sent
from workers.engine.graphs import Graphs
from workers.engine.sampler import Drawn
from workers.models.decoder import Decoder, Deepstack, placed
from workers.perception.changes import Patches
from workers.perception.vision import Features


class Following(NamedTuple):
    """A token that the host has not read yet: the one at `row` of those that were `drawn`."""

    drawn: Drawn
    row: int


class Shown(NamedTuple):
    """The frame that features are of, and the patches of it that they are of; None: all."""

    frame: Features
    patches: Patches | None


@dataclass(frozen=True, slots=True)
class Work:
    """New tokens int64 [n] of one sequence at `positions`, whose keys go to `slots` and which see `parts`.

    `features` [m, width], as a vision tower gives them, stand for the last m tokens; `following` for the only one.
    Where `wanted`, the logits after the last token are. `shown`: by what others know the features.
    """

    tokens: NDArray[np.int64]
    positions: Positions
    slots: Slots
    parts: tuple[Part, ...]
    wanted: bool
    features: Tensor | None = None
    following: Following | None = None
    shown: Shown | None = None


class Runner:
    """Runs works through a decoder; `attention` says where keys go and what queries see."""

    def __init__(
        self, decoder: Decoder, attention: Attention, graphs: Graphs | None = None, team: Team = ALONE
    ) -> None:
        """`graphs`: for passes that one of them holds. Of a `team`, rank 0 knows the tokens that no host has read."""
        self._decoder, self._attention, self._graphs, self._team = decoder, attention, graphs, team
        self._device = decoder.embed_tokens.weight.device

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> Tensor:
        """Writes all works' keys and values; logits [wanted works, vocabulary], in their order, until the next run."""
        counts = np.array([len(work.tokens) for work in works])
        singles = int((counts == 1).sum())
        stops = _stops(counts, singles)
        queries = _queries(works, stops)
        graph = None if self._graphs is None else self._graphs.ready(queries, self._levels(works))
        if graph is not None:
            stops = _stops(counts, graph.others_from(singles))
        embeds, deepstack = self._embeds(self._tokens(works, stops), works, stops)
        positions = sent(_rows([work.positions for work in works], stops), self._device)
        wanted = self._wanted(works, stops)
        if graph is not None:
            return graph.run(embeds, positions, wanted, deepstack)
        attend, rotation = self._attention.plan(queries), self._decoder.rope.rotation(positions)
        return self._decoder.logits(self._decoder(embeds, rotation, attend, wanted, deepstack))

    def _levels(self, works: Sequence[Work]) -> int:
        """Of features that the layers add, in a pass over these."""
        hidden = self._decoder.embed_tokens.weight.shape[1]
        return max((work.features.shape[-1] // hidden - 1 for work in works if work.features is not None), default=0)

    def _tokens(self, works: Sequence[Work], stops: NDArray[np.int64]) -> Tensor:
        """Token ids [n], those that the host does not know taken from where they were drawn."""
        tokens = sent(_rows([work.tokens for work in works], stops), self._device)
        unread = [(stop - 1, work.following) for stop, work in zip(stops, works, strict=True) if work.following]
        for drawn in dict.fromkeys(following.drawn for _, following in unread):
            places = [(row, following.row) for row, following in unread if following.drawn is drawn]
            into, source = sent(np.array(places).T.copy(), self._device)
            tokens.index_copy_(0, into, drawn.tokens.index_select(0, source))
        return self._team.told(tokens) if unread else tokens

    def _wanted(self, works: Sequence[Work], stops: NDArray[np.int64]) -> Tensor | slice | None:
        """The rows that somebody wants to read; None for all."""
        last = [int(stop) - 1 for stop, work in zip(stops, works, strict=True) if work.wanted]
        if not last:
            return slice(0, 0)
        return None if len(last) == stops.max() else sent(np.array(last, dtype=np.int64), self._device)

    def _embeds(
        self, tokens: Tensor, works: Sequence[Work], stops: NDArray[np.int64]
    ) -> tuple[Tensor, Deepstack | None]:
        embeds = self._decoder.embed(tokens)
        seen = [(work.features, stop) for work, stop in zip(works, stops, strict=True) if work.features is not None]
        if not seen:
            return embeds, None
        rows = np.concatenate([np.arange(stop - len(features), stop) for features, stop in seen])
        return placed(embeds, sent(rows, self._device), torch.cat([features for features, _ in seen]))


def _stops(counts: NDArray[np.int64], others_from: int) -> NDArray[np.int64]:
    """Where the rows of sequences with so many new tokens end: those of one token come first, in order, and the others
    from row `others_from` on."""
    alone = counts == 1
    return np.where(alone, np.cumsum(alone), others_from + np.cumsum(np.where(alone, 0, counts)))


def _rows(parts: Sequence[NDArray[np.int64]], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Parts [..., n] as one array [..., rows], each where it `stops`; rows of nobody are zero."""
    rows = np.zeros((*parts[0].shape[:-1], int(stops.max())), dtype=np.int64)
    for part, stop in zip(parts, stops.tolist(), strict=True):
        rows[..., stop - part.shape[-1] : stop] = part
    return rows


def _queries(works: Sequence[Work], stops: NDArray[np.int64]) -> tuple[Query, ...]:
    """In the order of their rows."""
    queries = [
        Query(stop - len(work.tokens), stop, work.positions, work.slots, work.parts, work.wanted)
        for work, stop in zip(works, stops.tolist(), strict=True)
    ]
    return tuple(sorted(queries, key=lambda query: query.start))
