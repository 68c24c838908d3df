"""The nouns that every room of the worker shares."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pages = NDArray[np.int32]  # [layers, groups, n]: page ids in each plane of the pool
Slots = NDArray[np.int64]  # [layers, groups, n]: page id * page size + place in the page
Positions = NDArray[np.int64]  # [3, n]: time, height, width
Turn = Callable[[Tensor, Tensor], Tensor]  # vectors [n, heads, dim] rotated on by int64 [n], or [3, n], positions

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

    def clear(self, slots: NDArray[np.int64]) -> None:
        """Takes away what weighs the keys in slots [n]."""
        self.bias.index_fill_(2, sent(slots, self.bias.device), 0)


class Run(NamedTuple):
    """Neighbouring slots `start` to `stop - 1` of one plane."""

    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """Keys in memory that some queries see, in the order in which they were written.

    `filled` [n] is how many slots of each page count, from its first on. `turn` is by how many positions these keys now
    stand below the positions that they were rotated to when they were stored.
    """

    pages: Pages
    filled: NDArray[np.int32]
    page_size: int
    turn: int = 0
    biased: bool = False

    @property
    def tokens(self) -> int:
        """Keys in each plane."""
        return int(self.filled.sum())

    def runs(self, layer: int, group: int) -> tuple[Run, ...]:
        """The part's slots in one plane, in order, as few runs as they form."""
        return self._runs[0 if self._uniform else layer * self.pages.shape[1] + group]

    @cached_property
    def slots(self) -> NDArray[np.int32]:
        """The part's slots [layers, groups, tokens] in order; [1, 1, tokens] where all planes have the same."""
        places = np.arange(self.page_size, dtype=np.int32)
        table = self._planes[..., None] * self.page_size + places
        return table[..., places < self.filled[:, None]]

    @cached_property
    def _uniform(self) -> bool:
        return bool((self.pages == self.pages[:1, :1]).all())

    @property
    def _planes(self) -> Pages:
        return self.pages[:1, :1] if self._uniform else self.pages

    @cached_property
    def _runs(self) -> tuple[tuple[Run, ...], ...]:
        planes = self._planes.reshape(-1, self.pages.shape[-1])
        return tuple(_runs(plane, self.filled, self.page_size) for plane in planes)


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


def _runs(pages: NDArray[np.int32], filled: NDArray[np.int32], page_size: int) -> tuple[Run, ...]:
    starts = pages.astype(np.int64) * page_size
    stops = starts + filled
    first = np.concatenate(([True], starts[1:] != stops[:-1]))
    last = np.concatenate((first[1:], [True]))
    return tuple(Run(start, stop) for start, stop in zip(starts[first].tolist(), stops[last].tolist(), strict=True))
