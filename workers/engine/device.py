"""What computes: model, memory and kernels of one device. It is told what to do in plain data, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from workers.attention.choice import attention_for
from workers.core import ALONE, FLOAT8, Attention, KVShape, KVStore, Slots, Team, Turn
from workers.engine.batch import Runner, Work
from workers.engine.graphs import Capturable, Graphs
from workers.engine.messages import PushFrame
from workers.engine.settings import EngineSettings
from workers.memory.compaction import Gathering, gather
from workers.memory.pool import PagePool
from workers.models.checkpoint import Checkpoint
from workers.models.errors import UnsupportedModel
from workers.models.rope import Rope, rotate
from workers.perception.glimpses import Change
from workers.perception.vision import Eye, Features, Picture

MakeAttention = Callable[[KVStore, Turn], Attention]
Pixels = Callable[[PushFrame], Picture]


class Computing(Protocol):
    """One device, or several that compute as one."""

    @property
    def pool(self) -> PagePool: ...

    @property
    def eye(self) -> Eye:
        """What says how pictures are to be; they are encoded by `encode`."""
        ...

    @property
    def turn(self) -> Turn: ...

    @property
    def graphs(self) -> Graphs | None: ...

    def run(self, works: Sequence[Work]) -> Tensor:
        """As Runner.run."""
        ...

    def encode(self, frames: Sequence[PushFrame], changes: Sequence[Change | None] | None = None) -> list[Features]:
        """Features of frames' pictures, as Eye.encode gives them; when it returns, the pictures have been read."""
        ...

    def gather(self, jobs: Sequence[Gathering]) -> list[Tensor]:
        """As compaction.gather."""
        ...

    def clear(self, slots: Slots) -> None:
        """As KVStore.clear."""
        ...

    def warm(self) -> None:
        """Prepares on a GPU what the first pictures and answers would wait for."""
        ...


class Device:
    """One device, with the whole model or, in a team, with a rank's share of it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: EngineSettings,
        pixels: Pixels,
        make_attention: MakeAttention | None = None,
        team: Team = ALONE,
    ) -> None:
        """`pixels` gives a frame's picture. `checkpoint` holds the rank's share of the model."""
        decoder = checkpoint.model.decoder
        self.eye = Eye(checkpoint.model.vision, checkpoint.pixels, settings.remembered)
        self.pool = _pool(checkpoint, settings, team)
        self.turn = turn_with(decoder.rope)
        make_attention = make_attention or (lambda store, turn: attention_for(store, turn, decoder.config.heads))
        attention = make_attention(self.pool.store, self.turn)
        self.graphs = self._captured(checkpoint, attention)
        self.runner = Runner(decoder, attention, self.graphs, team)
        self._pixels = pixels
        # Ranks that have heads of the same group choose together what it keeps.
        self._agreeing = team if settings.head_groups == 1 else ALONE

    def run(self, works: Sequence[Work]) -> Tensor:
        return self.runner.run(works)

    def encode(self, frames: Sequence[PushFrame], changes: Sequence[Change | None] | None = None) -> list[Features]:
        return self.eye.encode([self._pixels(frame) for frame in frames], changes)

    def gather(self, jobs: Sequence[Gathering]) -> list[Tensor]:
        return gather(self.pool.store, self.turn, jobs, self._agreeing)

    def clear(self, slots: Slots) -> None:
        self.pool.store.clear(slots)

    def warm(self) -> None:
        self.eye.warm()
        if self.graphs is not None:
            self.graphs.warm()

    def _captured(self, checkpoint: Checkpoint, attention: Attention) -> Graphs | None:
        """Graphs, where the attention can be part of one; a page is put by for what they pad."""
        if not isinstance(attention, Capturable):
            return None
        spare = int(self.pool.open(1).ids[0]) * self.pool.page_size
        levels = len(checkpoint.config.vision.deepstack_blocks)
        return Graphs(checkpoint.model.decoder, attention, spare, self.eye.tokens, levels)


def _pool(checkpoint: Checkpoint, settings: EngineSettings, team: Team) -> PagePool:
    """Books over all heads, and memory for those that the model's share has."""
    text, share = checkpoint.config.text, checkpoint.model.decoder.config
    weight, groups = checkpoint.model.decoder.embed_tokens.weight, settings.head_groups
    if text.kv_heads % groups:
        raise UnsupportedModel(f"{text.kv_heads} KV heads cannot be divided into {groups} groups")
    if groups % team.size and groups > 1:
        raise UnsupportedModel(f"{groups} head groups cannot be divided among {team.size} ranks; 1 could")
    shape = KVShape(layers=text.layers, groups=groups, heads=text.kv_heads // groups, head_dim=text.head_dim)
    here = max(1, groups // team.size)
    held = KVShape(layers=text.layers, groups=here, heads=share.kv_heads // here, head_dim=text.head_dim)
    pages, eight = settings.pool_tokens // settings.page_size, settings.kv_dtype == "fp8"
    stored, wide = (FLOAT8, weight.dtype) if eight else (weight.dtype, None)
    return PagePool(shape, pages, settings.page_size, stored, weight.device, wide, held)


def turn_with(rope: Rope) -> Turn:
    """Rotates as the model does, all three axes alike or each by its own."""

    def turn(vectors: Tensor, by: Tensor) -> Tensor:
        return rotate(vectors, rope.rotation(by.expand(3, -1)))

    return turn
