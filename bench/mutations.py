"""Damage to real media, each kind of it a function of a seeded source of chance and the bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Mutation = Callable[[Random, bytes], bytes]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
HEAD = 64  # bytes in which headers mostly lie
LONGEST_RUN = 4096


def flip(rng: Random, data: bytes) -> bytes:
    """A few single bits."""
    out = bytearray(data)
    for _ in range(1 + int(rng.expovariate(0.2))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def scribble(rng: Random, data: bytes) -> bytes:
    """A run of random bytes over what was there."""
    at, length = _run(rng, data)
    return data[:at] + rng.randbytes(length) + data[at + length :]


def cut(rng: Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(1, max(len(data), 2))]


def behead(rng: Random, data: bytes) -> bytes:
    """The beginning is missing."""
    return data[rng.randrange(max(len(data) - 1, 1)) :]


def drop(rng: Random, data: bytes) -> bytes:
    """A run in the middle is missing."""
    at, length = _run(rng, data)
    return data[:at] + data[at + length :] or data[:1]


def repeat(rng: Random, data: bytes) -> bytes:
    """A run comes twice, or many times."""
    at, length = _run(rng, data)
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def extreme(rng: Random, data: bytes) -> bytes:
    """An absurd number where a size, count or length may stand."""
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(EXTREMES) & (1 << 8 * size) - 1
    at = rng.randrange(min(HEAD, len(data)) if rng.random() < 0.5 else len(data))
    return data[:at] + number.to_bytes(size, rng.choice(("big", "little"))) + data[at + size :]


def shuffle(rng: Random, data: bytes) -> bytes:
    """Two runs change places."""
    places = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    a, b, c, d = places
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def noise(rng: Random, data: bytes) -> bytes:
    """Nothing of it is left but its beginning."""
    head = rng.choice((0, 4, 16, HEAD))
    return data[:head] + rng.randbytes(len(data) - min(head, len(data)) or 1)


def intact(rng: Random, data: bytes) -> bytes:
    """Nothing is wrong with it."""
    return data


ALL: tuple[Mutation, ...] = (flip, scribble, cut, behead, drop, repeat, extreme, shuffle, noise, intact)
WEIGHTS = (25, 12, 10, 4, 8, 6, 20, 6, 4, 5)


def mutate(rng: Random, data: bytes) -> tuple[str, bytes]:
    """One kind of damage, sometimes two, and their names."""
    names = []
    for mutation in rng.choices(ALL, WEIGHTS, k=1 if rng.random() < 0.75 else 2):
        names.append(mutation.__name__)
        data = mutation(rng, data)
    return "+".join(names), data


def _run(rng: Random, data: bytes) -> tuple[int, int]:
    at = rng.randrange(len(data))
    return at, rng.randint(1, min(LONGEST_RUN, len(data) - at))
