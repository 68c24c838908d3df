from collections import Counter
from random import Random

import pytest

from training.world.director import direct
from training.world.moment import Moment
from training.world.questions import KINDS, Question, ask, values
from training.world.scoring import Verdict, is_right, judge, summary

pytestmark = pytest.mark.unit


def many() -> list[Question]:
    rng, asked = Random(4), []
    for seed in range(60):
        script = direct(seed, 60.0)
        for _ in range(4):
            moment = Moment(script, rng.uniform(15, 59))
            asked += [question for kind in KINDS if (question := ask(kind, moment, rng)) is not None]
    return asked


QUESTIONS = many()


def test_every_kind_is_asked_in_many_wordings() -> None:
    texts = {kind: {q.text for q in QUESTIONS if q.kind == kind} for kind in KINDS}
    assert all(len(wordings) >= 8 for wordings in texts.values())


def test_answers_hold_their_value_and_no_other_of_its_kind() -> None:
    assert [question for question in QUESTIONS if not is_right(question.kind, question.value, question.answer)] == []
    assert all(question.value in values(question.kind) for question in QUESTIONS)


def test_no_is_as_often_true_as_yes() -> None:
    sides = Counter(question.value for question in QUESTIONS if question.kind == "absent")
    assert 0.4 < sides["no"] / sides.total() < 0.6


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The dog is in the upper left.", True),
        ("UPPER LEFT", True),
        ("The dog is in the upper left or the lower left.", False),
        ("The dog is in the left.", False),
        ("", False),
    ],
)
def test_scoring(answer: str, right: bool) -> None:
    assert is_right("where", "upper left", answer) is right


def test_words_count_as_a_whole() -> None:
    assert is_right("what", "pineapple", "There is a pineapple.")
    assert not is_right("what", "apple", "There is a pineapple.")
    assert is_right("absent", "no", "No, there is no cat.")
    assert not is_right("absent", "no", "I know.")


def test_the_summary_weighs_yes_and_no_alike() -> None:
    verdicts = [Verdict("absent", "yes", "", "yes", True)] * 9 + [Verdict("absent", "no", "", "yes", False)]
    told = summary(verdicts)
    assert told["absent"] == 0.5
    assert told["present"] is None
    assert told["asked"]["absent"] == 10


def test_judge_keeps_what_was_said() -> None:
    verdict = judge(Question("colour", 1.0, "What colour is the star?", "The star is red.", "red"), "It is blue.")
    assert (verdict.right, verdict.answer, verdict.value) == (False, "It is blue.", "red")
