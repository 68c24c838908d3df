import pytest

from training.world.catalogue import COLOURS, NUMBERS, SHAPES, WORDS, of_family, things, with_article

pytestmark = pytest.mark.unit


def test_there_are_enough_things_of_every_family() -> None:
    assert len(of_family("sprite")) >= 300
    assert len(of_family("shape")) == len(SHAPES)
    assert len(of_family("card")) == len(WORDS) + len(NUMBERS)
    assert len(COLOURS) == 12


def test_numbers_are_places_in_the_list() -> None:
    assert [thing.number for thing in things()] == list(range(len(things())))


def test_no_name_is_part_of_another() -> None:
    """Otherwise an answer that names one thing would name two."""
    names = [f" {thing.name} ".replace("-", " ") for thing in things() if thing.family != "card"]
    assert len(set(names)) == len(names)
    assert [(a, b) for a in names for b in names if a != b and a in b] == []


@pytest.mark.parametrize(
    ("phrase", "spoken"),
    [
        ("apple", "an apple"),
        ("dog", "a dog"),
        ("ufo", "a ufo"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
    ],
)
def test_articles(phrase: str, spoken: str) -> None:
    assert with_article(phrase) == spoken


def test_plurals_and_stuffs() -> None:
    by_name = {thing.name: thing for thing in of_family("sprite")}
    assert by_name["wolf"].plural == "wolves"
    assert by_name["dog"].plural == "dogs"
    assert by_name["cheese"].indefinite == "any cheese"
