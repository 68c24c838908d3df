"""The nouns that every room of the worker shares."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pages = NDArray[np.int32]  # [layers, groups, n], or [1, 1, n] where all planes of the pool have the same: page ids
Slots = NDArray[np.int32]  # the same of slots: page id * page size + place in the page
Positions = NDArray[np.int64]  # [3, n]: time, height, width
Turn = Callable[[Tensor, Tensor], Tensor]  # vectors [n, heads, dim] rotated on by int64 [n], or [3, n], positions

Table = TypeVar("Table", NDArray[np.int32], Tensor)

FLOAT8 = torch.float8_e4m3fn  # four bits of exponent, three of mantissa (arXiv:2209.05433)
FLOAT8_MOST = 448.0


class Kind(enum.IntEnum):
    """What a token in memory is: the first tokens, on which attention rests; the rest of the header; a patch; text."""

    SINK = 0
    SYSTEM = 1
    FRAME = 2
    TEXT = 3


@dataclass(frozen=True, slots=True)
class KVShape:
    """The planes of a pool: one for each layer and head group, each with `heads` KV heads."""

    layers: int
    groups: int
    heads: int
    head_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of one token's keys and values over all planes."""
        return 2 * self.layers * self.groups * self.heads * self.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class KVStore:
    """The tensors of a pool: keys and values [layers, groups, slots, heads, head_dim], bias [layers, groups, slots].

    A slot's bias is added to every score of its key: log n lets it stand for n tokens, -inf for none. It is read only
    where a Part says that it is `biased`. Where keys and values are FLOAT8, they are computed in the `wide` type.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    wide: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What queries, new keys and new values come in, and outputs."""
        return self.wide or self.keys.dtype

    def clear(self, slots: NDArray[np.int32]) -> None:
        """Takes away what weighs the keys in slots [n]."""
        self.bias.index_fill_(2, sent(slots, self.bias.device).long(), 0)


class Run(NamedTuple):
    """Neighbouring slots `start` to `stop - 1` of one plane."""

    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """Keys in memory that some queries see: those in `slots`, in the order in which they were written.

    `turn` is by how many positions they now stand below the positions that they were rotated to when they were stored.
    """

    slots: Slots
    turn: int = 0
    biased: bool = False

    @property
    def tokens(self) -> int:
        """Keys in each plane."""
        return int(self.slots.shape[-1])

    def runs(self, layer: int, group: int) -> tuple[Run, ...]:
        """The part's slots in one plane, in order, as few runs as they form."""
        layers, groups, _ = self.slots.shape
        return self._runs[layer % layers * groups + group % groups]

    @cached_property
    def _runs(self) -> tuple[tuple[Run, ...], ...]:
        return tuple(_runs(plane) for plane in self.slots.reshape(-1, self.tokens))


@dataclass(frozen=True, slots=True)
class Query:
    """One sequence's new tokens in a batch: rows `start` to `stop - 1`.

    They see all of `parts` and, causally, each other; their keys and values go to `slots`. `positions` are those they
    are rotated to. Where not `wanted`, nobody reads what the last layer makes of them.
    """

    start: int
    stop: int
    positions: Positions
    slots: Slots
    parts: tuple[Part, ...]
    wanted: bool = True

    @property
    def tokens(self) -> int:
        """New tokens."""
        return self.stop - self.start

    @property
    def apart(self) -> bool:
        """Whether it sees some parts otherwise than as they were stored: turned, or with biases."""
        return any(part.turn or part.biased for part in self.parts)


def singles(queries: Sequence[Query]) -> int:
    """How many queries are of one token."""
    return sum([query.tokens == 1 for query in queries])


class Attend(Protocol):
    """Attention of one layer over a planned batch; writes the new keys and values before it reads."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotated q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] to outputs like q."""
        ...


class Attention(Protocol):
    """One way to compute attention over a pool."""

    def plan(self, queries: tuple[Query, ...]) -> Attend:
        """Attention for one forward pass over these queries, whose rows follow each other from 0 on."""
        ...


def joined(tables: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Tables [layers, groups, n], or [1, 1, n] where all planes have the same, as one; a copy, if they are several."""
    if len(tables) == 1:
        return tables[0]
    planes = {table.shape[:2] for table in tables}
    if len(planes) > 1:
        every = np.broadcast_shapes(*planes)
        tables = [np.broadcast_to(table, (*every, table.shape[-1])) for table in tables]
    return np.concatenate(tables or [np.empty((1, 1, 0), dtype=np.int32)], axis=-1)


def of_plane(table: Table, layer: int, group: int) -> Table:
    """A table's row for one plane [n], of [layers, groups, n] or of what all planes have, [1, 1, n]."""
    layers, groups = table.shape[:2]
    row: Table = table[layer % layers, group % groups]
    return row


def staged(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array's values on the host, where a device can fetch them without making the host wait."""
    values = torch.from_numpy(array)
    if device.type == "cpu":
        return values
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    there.numpy()[...] = array  # NumPy's copy: torch's would wake a thread on every core, and wait for all of them
    return there


def sent(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array's values on a device; the host does not wait until they are there."""
    return staged(array, device).to(device, non_blocking=True)


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as they are stored: what lies beyond the range of eight bits becomes the end of it."""
    if dtype != FLOAT8:
        return values.to(dtype)
    return values.clamp(-FLOAT8_MOST, FLOAT8_MOST).to(dtype)


def indexed(values: Tensor) -> Tensor:
    """The same memory in a type whose entries torch can address by index: not every device does FLOAT8."""
    return values.view(torch.uint8) if values.dtype == FLOAT8 else values


class Team(Protocol):
    """The ranks that compute one model together, each on a device of its own, and this one's place among them.

    All of them call the same verbs in the same order, with tensors of the same shape. What a verb does is done in the
    order of the device's stream: on a GPU the host does not wait for it, and a graph may hold it.
    """

    @property
    def rank(self) -> int:
        """0 for the one that plans."""
        ...

    @property
    def size(self) -> int: ...

    def sum(self, x: Tensor) -> Tensor:
        """x of all ranks added up, in its place."""
        ...

    def told(self, x: Tensor, by: int = 0) -> Tensor:
        """x as rank `by` has it, in its place."""
        ...

    def joined(self, x: Tensor) -> Tensor:
        """x of all ranks, [size, *x.shape]."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A team of one."""

    rank: int = 0
    size: int = 1

    def sum(self, x: Tensor) -> Tensor:
        return x

    def told(self, x: Tensor, by: int = 0) -> Tensor:
        return x

    def joined(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0)


ALONE = Alone()


class Fence:
    """A point in the work that a device was given, for which the host can wait; a CPU is never behind."""

    def __init__(self, device: torch.device) -> None:
        """No point yet: waiting is over at once."""
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def mark(self) -> None:
        """The point is after everything given so far."""
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def _runs(slots: NDArray[np.int32]) -> tuple[Run, ...]:
    breaks = np.flatnonzero(slots[1:] != slots[:-1] + 1)
    firsts, lasts = slots[[0, *(breaks + 1)]], slots[[*breaks, -1]]
    return tuple(Run(first, last + 1) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True))
