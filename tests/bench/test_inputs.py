"""Hostile inputs: the same at every run, of every format, and none of them empty."""

from random import Random

import pytest

from bench.bombs import bombs
from bench.inputs import CHUNK, CODECS, FILE, POSTED, Inputs
from bench.mutations import ALL, mutate
from bench.samples import Sample, samples

pytestmark = [pytest.mark.unit, pytest.mark.timeout(120)]

SMALL = 400


@pytest.fixture(scope="module")
def good() -> list[Sample]:
    return samples()


def test_media_of_every_format_are_the_same_at_every_run(good: list[Sample]) -> None:
    assert {sample.form for sample in good} == {*CODECS, "file"}
    assert samples() == good


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.__name__)
def test_damage_is_seeded_and_leaves_something(mutation: object) -> None:
    assert callable(mutation)
    data = bytes(range(256)) * 4
    for seed in range(200):
        damaged = mutation(Random(seed), data)
        assert damaged
        assert damaged == mutation(Random(seed), data)
        assert mutation(Random(seed), b"x")
    assert any(mutate(Random(seed), data)[1] != data for seed in range(5))


def test_an_input_is_made_of_its_seed_and_number_alone(good: list[Sample]) -> None:
    dear = bombs(SMALL)
    one, other = Inputs(7, good, dear), Inputs(7, good, dear)
    numbers = list(range(3000))
    made = {number: one.make(number) for number in numbers}
    for number in reversed(numbers[::7]):
        assert other.make(number) == made[number]
    assert Inputs(8, good, dear).make(5) != made[5]
    assert {item.form for item in made.values()} == {*CODECS, "file"}
    assert {item.way for item in made.values()} == {CHUNK, FILE, POSTED}
    assert any(item.header for item in made.values())
    assert any(item.how.startswith("bomb") for item in made.values())
    assert all(piece for item in made.values() for piece in item.pieces)
