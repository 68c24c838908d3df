"""When an answer is right: it holds the true value and no other value of its kind."""

import re
from functools import cache

from training.world.questions import Kind, values


def is_right(kind: Kind, value: str, answer: str) -> bool:
    """Whether `answer` holds `value` and no other value of this kind, as whole words, in any case of letters."""
    return set(_pattern(kind).findall(answer.lower())) == {value.lower()}


@cache
def _pattern(kind: Kind) -> re.Pattern[str]:
    longest_first = sorted((value.lower() for value in values(kind)), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")
