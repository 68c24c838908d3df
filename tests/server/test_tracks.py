import pytest

from server.media.sampler import Sampler
from server.media.tracks import REMEMBERED, Track

pytestmark = pytest.mark.unit


def test_what_is_sent_again_is_known_by_its_number_and_time() -> None:
    track = Track(0, Sampler(1.0))
    for sequence in range(300):
        track.take(sequence, sequence * 1000)
    assert track.repeats(5, 5000)
    assert track.repeats(299, 299_000)
    assert not track.repeats(300, 300_000)
    assert not track.repeats(5, 400_000), "another recording that counts from the start again"


def test_memory_of_what_was_taken_is_bounded() -> None:
    track = Track(0, Sampler(1.0))
    for sequence in range(3 * REMEMBERED):
        track.take(sequence, sequence)
    assert not track.repeats(REMEMBERED, REMEMBERED)
    assert track.repeats(3 * REMEMBERED - 1, 3 * REMEMBERED - 1)


def test_a_refused_chunk_is_settled_told_once_in_a_row_and_breaks_the_chain() -> None:
    track = Track(0, Sampler(1.0))
    track.take(0, 5000)
    assert track.refuse(1)
    assert not track.refuse(2)
    assert track.settled == 2
    assert not track.continues(3)
    track.take(3, 6000)
    assert track.continues(4)
    assert track.refuse(4)
