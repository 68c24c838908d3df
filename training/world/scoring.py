"""When an answer is right: it holds the true value and no other value of its kind."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from training.world.questions import BACKWARD, KINDS, PRESENT, Kind, Question, values


def is_right(kind: Kind, value: str, answer: str) -> bool:
    """Whether `answer` holds `value` and no other value of this kind, as whole words, in any case of letters."""
    return set(_pattern(kind).findall(answer.lower())) == {value.lower()}


@cache
def _pattern(kind: Kind) -> re.Pattern[str]:
    longest_first = sorted((value.lower() for value in values(kind)), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answered question: its kind, its true value, what was said, and whether that is right."""

    kind: Kind
    value: str
    text: str
    answer: str
    right: bool


def judge(question: Question, answer: str) -> Verdict:
    """The verdict on `answer`."""
    right = is_right(question.kind, question.value, answer)
    return Verdict(question.kind, question.value, question.text, answer, right)


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Shares of right answers: about the present, about the past, "is there" (yes and no weigh alike), by kind."""
    absent = [v for v in verdicts if v.kind == "absent"]
    sides = [_share([v for v in absent if v.value == side]) for side in ("yes", "no")]
    known = [side for side in sides if side is not None]
    return {
        "present": _share([v for v in verdicts if v.kind in PRESENT]),
        "backward": _share([v for v in verdicts if v.kind in BACKWARD]),
        "absent": round(sum(known) / len(known), 4) if known else None,
        "per_kind": {kind: _share([v for v in verdicts if v.kind == kind]) for kind in KINDS},
        "asked": {kind: sum(v.kind == kind for v in verdicts) for kind in KINDS},
    }


def _share(verdicts: Sequence[Verdict]) -> float | None:
    return round(sum(v.right for v in verdicts) / len(verdicts), 4) if verdicts else None
