"""The model on one stream, in the plainest way: a cache of keys and values, no pages, no batches, no server."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from workers.models.chat import Span
from workers.models.checkpoint import Checkpoint
from workers.models.clock import Clock
from workers.perception.changes import ChangeFilter, Patches, Reference, faded, look
from workers.perception.glimpses import Change
from workers.perception.vision import Eye

LONGEST = 48


@dataclass(slots=True)
class Piece:
    """Keys and values of a run of tokens, one pair [tokens, kv_heads, head_dim] a layer, so many of them `patches`."""

    layers: list[tuple[Tensor, Tensor]]
    patches: int = 0
    time_ms: int = -1


class Listener:
    """Sees pictures one by one and answers questions about them, the newest in view: those that take no more room than
    `window` whole ones."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        window: int | None = None,
        age: int = 0,
        changes: ChangeFilter | None = None,
        streams: int = 0,
    ) -> None:
        """`age`: positions that passed between the header and the first picture, as in a session that has run long.

        `changes`: only those patches are seen of a picture that bring something new; `streams`: as of `Eye`.
        """
        self._checkpoint, self._chat, self._window = checkpoint, checkpoint.chat, window
        self._eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams)
        self._changes = changes
        self._reference: Reference | None = None
        self._newest = Piece([])
        self._pieces: list[Piece] = []
        header = self._chat.header()
        self._run(header, None, [])
        self._header = self._newest
        self._clock = Clock(header.clock.rate, header.clock.next + age)

    @torch.inference_mode()
    def see(self, picture: NDArray[np.uint8], time_ms: int) -> None:
        """A picture [224, 224, 3] at its time."""
        rows, columns = self._checkpoint.pixels.grid(*picture.shape[:2])
        patches = self._new(picture, time_ms, rows, columns)
        if patches is not None and not len(patches):
            self._clock = self._clock.passing(time_ms)
            return
        change = None if self._changes is None else Change("", patches)
        features = self._eye.encode([picture], [change])[0].of(patches)
        span = self._chat.frame(self._clock, time_ms, rows, columns, patches=patches)
        self._run(span, features, [self._header, *self._pieces])
        self._pieces.append(self._newest)
        self._newest.patches, self._newest.time_ms = len(features), time_ms
        while self._window and sum(piece.patches for piece in self._pieces) > self._window * rows * columns:
            del self._pieces[0]
        self._clock = span.clock

    def _new(self, picture: NDArray[np.uint8], time_ms: int, rows: int, columns: int) -> Patches | None:
        """The patches that are to be seen of it; None: all."""
        if self._changes is None:
            return None
        room = (self._window or len(self._pieces) + 1) * rows * columns // 2
        written = ((piece.time_ms, piece.patches) for piece in reversed(self._pieces))
        sight = self._changes.sight(look(picture), rows, columns, self._reference, time_ms, faded(written, room))
        self._reference = sight.reference
        return sight.patches

    @torch.inference_mode()
    def ask(self, question: str) -> str:
        """The likeliest answer, token by token, on a branch that the stream forgets."""
        span = self._chat.question(self._clock, question)
        branch: list[Piece] = []
        said: list[int] = []
        stops = self._checkpoint.tokenizer.special.stops
        while len(said) < LONGEST:
            hidden = self._run(span, None, [self._header, *self._pieces, *branch])
            branch.append(self._newest)
            token = int(self._checkpoint.model.decoder.logits(hidden[-1:]).argmax())
            if token in stops:
                break
            said.append(token)
            span = self._chat.answer(span.clock, [token])
        return self._checkpoint.tokenizer.decode(said)

    @torch.inference_mode()
    def _run(self, span: Span, features: Tensor | None, before: Sequence[Piece]) -> Tensor:
        """Hidden states of a span's tokens, which see what is `before`; leaves their keys and values in `_newest`."""
        decoder = self._checkpoint.model.decoder
        embeds = decoder.embed(torch.from_numpy(span.tokens))
        if features is not None:
            embeds = torch.cat((embeds[: len(embeds) - len(features)], features))
        self._newest = newest = Piece([])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            newest.layers.append((k, v))
            parts = [*(piece.layers[layer] for piece in before), (k, v)]
            keys, values = (torch.cat(part).transpose(0, 1)[None] for part in zip(*parts, strict=True))
            seen = torch.ones(len(q), keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - len(q))
            mixed = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None], keys, values, attn_mask=seen, enable_gqa=True
            )
            return mixed[0].transpose(0, 1)

        hidden: Tensor = decoder(embeds, decoder.rope.rotation(torch.from_numpy(span.positions)), attend)
        return hidden
