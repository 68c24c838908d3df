"""One forward pass over new tokens of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.core import Attention, Part, Positions, Query, Slots
from workers.models.decoder import Decoder, Deepstack, placed


@dataclass(frozen=True, slots=True)
class Work:
    """New tokens int64 [n] of one sequence at `positions`, whose keys go to `slots` and which see `parts`.

    `features` [m, width], as a vision tower gives them, stand for the last m tokens. Where `wanted`, the logits after
    the last token are.
    """

    tokens: NDArray[np.int64]
    positions: Positions
    slots: Slots
    parts: tuple[Part, ...]
    wanted: bool
    features: Tensor | None = None


class Runner:
    """Runs works through a decoder; `attention` says where keys go and what queries see."""

    def __init__(self, decoder: Decoder, attention: Attention) -> None:
        self._decoder, self._attention = decoder, attention
        self._device = decoder.embed_tokens.weight.device

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> Tensor:
        """Writes all works' keys and values; logits float32 [wanted works, vocabulary], in their order."""
        stops = np.cumsum([len(work.tokens) for work in works])
        embeds, deepstack = self._embeds(works, stops)
        positions = torch.from_numpy(np.concatenate([work.positions for work in works], axis=1)).to(self._device)
        attend = self._attention.plan(_queries(works, stops))
        wanted = [int(stop) - 1 for stop, work in zip(stops, works, strict=True) if work.wanted]
        rows = None if len(wanted) == stops[-1] else torch.tensor(wanted, dtype=torch.int64, device=self._device)
        hidden = self._decoder(embeds, self._decoder.rope.rotation(positions), attend, rows, deepstack)
        return self._decoder.logits(hidden).float()

    def _embeds(self, works: Sequence[Work], stops: NDArray[np.int64]) -> tuple[Tensor, Deepstack | None]:
        tokens = torch.from_numpy(np.concatenate([work.tokens for work in works])).to(self._device)
        embeds = self._decoder.embed(tokens)
        seen = [(work.features, stop) for work, stop in zip(works, stops, strict=True) if work.features is not None]
        if not seen:
            return embeds, None
        rows = np.concatenate([np.arange(stop - len(features), stop) for features, stop in seen])
        return placed(embeds, torch.from_numpy(rows).to(self._device), torch.cat([features for features, _ in seen]))


def _queries(works: Sequence[Work], stops: NDArray[np.int64]) -> tuple[Query, ...]:
    return tuple(
        Query(int(stop) - len(work.tokens), int(stop), work.positions, work.slots, work.parts, work.wanted)
        for work, stop in zip(works, stops, strict=True)
    )
