import math
from random import Random

import pytest

from training.world.catalogue import of_family
from training.world.moment import Moment
from training.world.questions import Kind, Question, ask
from training.world.script import CELL, Actor, Camera, Event, Script

pytestmark = pytest.mark.unit
NAMES = {thing.name: thing for thing in (*of_family("sprite"), *of_family("shape"))}
STILL = Camera(0.0, (0.0, 0.0), 1.0, 0.0, 0.0, 0.0)


def actor(name: str, cell: int, come: float, leave: float = math.inf) -> Actor:
    """A thing that pops up in the middle of a cell and vanishes from there."""
    row, column = divmod(cell, 3)
    path = ([come], [(column + 0.5) * CELL], [(row + 0.5) * CELL])
    return Actor(NAMES[name], 50.0, path, (come, come + 0.05), (leave, leave + 0.02), cell=cell)


def script(*actors: Actor, events: tuple[Event, ...] = ()) -> Script:
    return Script(0, 60.0, actors, events, ((0.0, 0),), STILL)


def asked(kind: Kind, shown: Script, time: float) -> Question:
    question = ask(kind, Moment(shown, time), Random(1))
    assert question is not None
    return question


def test_where_and_what_say_the_cell() -> None:
    shown = script(actor("dog", 2, -5.0))
    assert asked("where", shown, 10.0).value == "upper right"
    assert asked("what", shown, 10.0).value == "dog"


def test_a_newcomer_is_not_asked_about_before_a_picture_has_shown_it() -> None:
    shown = script(actor("dog", 0, 9.5))
    assert ask("where", Moment(shown, 10.0), Random(1)) is None
    assert asked("where", shown, 12.0).value == "upper left"


def test_a_covered_thing_is_not_asked_about() -> None:
    behind, front = actor("dog", 4, -5.0), actor("cat", 4, -5.0)
    front.depth = 1.0
    assert [found.thing.name for found in Moment(script(behind, front), 10.0).plain] == ["cat"]


def test_first_is_the_one_that_came_first() -> None:
    shown = script(actor("dog", 0, 4.0), actor("cat", 1, 9.0), actor("fox", 2, 14.0))
    for seed in range(5):
        question = ask("first", Moment(shown, 20.0), Random(seed))
        assert question is not None
        assert question.value == ("dog" if "dog" in question.text else "cat")


def test_before_names_what_was_replaced() -> None:
    old = actor("dog", 4, -5.0, 8.0)
    new = actor("cat", 4, 8.02)
    new.followed = old
    assert asked("before", script(old, new), 15.0).value == "dog"
    assert ask("before", Moment(script(old, new), 50.0), Random(1)) is None  # longer ago than half a minute


@pytest.mark.parametrize(("ago", "word"), [(4.0, "five"), (11.0, "ten"), (20.0, "twenty")])
def test_when_left_in_words(ago: float, word: str) -> None:
    assert asked("when_left", script(actor("dog", 0, -5.0, 30.0)), 30.0 + ago).value == word


def test_the_time_between_two_words_is_not_asked() -> None:
    assert ask("when_left", Moment(script(actor("dog", 0, -5.0, 30.0)), 37.8), Random(1)) is None


def test_changed_is_the_newest_event() -> None:
    dog, cat = actor("dog", 0, 4.0), actor("cat", 1, 9.0)
    events = (Event("came", 4.0, 4.05, dog), Event("came", 9.0, 9.05, cat))
    assert asked("changed", script(dog, cat, events=events), 12.0).value == "cat"


def test_what_has_left_is_not_there() -> None:
    shown = script(actor("dog", 0, -5.0, 8.0), actor("cat", 1, -5.0))
    questions = [asked("absent", shown, 12.0 + 0.1 * n) for n in range(5)]
    questions += [q for seed in range(60) if (q := ask("absent", Moment(shown, 12.0), Random(seed)))]
    for question in questions:
        assert question.value == ("yes" if "cat" in question.text.split() or "cat?" in question.text else "no")


def test_heading_needs_two_pictures_of_movement() -> None:
    path = ([0.0, 8.0], [20.0, 200.0], [100.0, 100.0])
    mover = Actor(NAMES["dog"], 50.0, path, (0.0, 0.1), (7.9, 8.0))
    assert Moment(script(mover), 1.0).heading(mover) is None
    assert Moment(script(mover), 5.0).heading(mover) == "right"
