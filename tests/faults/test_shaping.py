import math

import pytest

from tests.faults.shaping import Faults, Piece, Shaper

pytestmark = pytest.mark.unit

SEED = 20_26


def joined(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def test_a_perfect_wire_hands_on_what_it_reads_at_once() -> None:
    assert Shaper(SEED).shape(b"hello", Faults(), 3.0) == [Piece(b"hello", 3.0)]


def test_latency_delays_every_piece_by_as_much() -> None:
    shaper = Shaper(SEED)
    dues = [shaper.shape(b"x", Faults(latency_s=0.2), now)[0].due for now in (0.0, 0.1, 5.0)]
    assert dues == pytest.approx([0.2, 0.3, 5.2])


def test_jitter_stays_in_its_bounds_and_keeps_the_order() -> None:
    shaper = Shaper(SEED)
    faults = Faults(latency_s=0.2, jitter_s=0.05)
    dues = [shaper.shape(b"x", faults, now)[0].due for now in [step * 0.001 for step in range(500)]]
    assert dues == sorted(dues)
    assert len(set(dues)) > 10
    delays = [shaper.shape(b"x", faults, now)[0].due - now for now in range(10, 510)]
    assert 0.15 <= min(delays) < 0.17
    assert 0.23 < max(delays) <= 0.25


def test_bandwidth_spaces_the_pieces() -> None:
    shaper = Shaper(SEED)
    faults = Faults(bytes_per_s=1_000)
    assert shaper.shape(bytes(500), faults, 0.0)[0].due == pytest.approx(0.5)
    assert shaper.shape(bytes(500), faults, 0.0)[0].due == pytest.approx(1.0)
    assert shaper.shape(bytes(100), faults, 9.0)[0].due == pytest.approx(9.1)


def test_slices_are_small_and_lose_nothing() -> None:
    data = bytes(range(256)) * 8
    pieces = Shaper(SEED).shape(data, Faults(slice_bytes=7), 0.0)
    assert joined(pieces) == data
    assert {len(piece.data) for piece in pieces} == set(range(1, 8))


def test_a_cut_lets_exactly_so_many_bytes_through() -> None:
    shaper = Shaper(SEED)
    faults = Faults(cut_after=10)
    first = shaper.shape(bytes(8), faults, 0.0)
    second = shaper.shape(bytes(8), faults, 0.0)
    assert [len(piece.data) for piece in first] == [8]
    assert [(len(piece.data), piece.breaks) for piece in second] == [(2, False), (0, True)]


def test_the_last_byte_before_a_cut_is_not_yet_the_cut() -> None:
    assert [piece.breaks for piece in Shaper(SEED).shape(bytes(10), Faults(cut_after=10), 0.0)] == [False]


def test_resets_come_at_their_rate_and_by_the_seed() -> None:
    def breaks(seed: int) -> list[bool]:
        shaper = Shaper(seed)
        return [shaper.shape(b"x", Faults(reset_rate=0.1), float(n))[-1].breaks for n in range(2_000)]

    assert breaks(SEED) == breaks(SEED)
    assert breaks(SEED) != breaks(SEED + 1)
    assert 150 < sum(breaks(SEED)) < 250


@pytest.mark.parametrize(
    "numbers",
    [
        {"latency_s": -0.1},
        {"latency_s": 0.1, "jitter_s": 0.2},
        {"latency_s": math.inf},
        {"bytes_per_s": 0},
        {"bytes_per_s": math.nan},
        {"slice_bytes": 0},
        {"reset_rate": 1.5},
        {"cut_after": -1},
    ],
)
def test_numbers_without_sense_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"jitter|wire|slice|rate|cut"):
        Faults(**numbers)  # type: ignore[arg-type]
