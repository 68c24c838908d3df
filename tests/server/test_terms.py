"""Terms of sessions and questions: their bounds, and when a question is the same as one put before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import BadRequest, LonglookError, QuestionTooLong, TooLarge
from protocol.messages import Ask
from server.settings import Limits
from server.terms import LATEST_MS, AskTerms, OpenTerms

pytestmark = pytest.mark.unit

LIMITS = Limits(question_chars=10, answer_tokens=200, metadata_pairs=2, metadata_key_chars=3, metadata_value_chars=4)
ASK = Ask(question_id="q1", text="what?", at_ms=7, asked_at=1.0)


@pytest.mark.parametrize(
    "terms",
    [
        AskTerms("0123456789", id="q:1", at_ms=LATEST_MS, max_tokens=200, temperature=2, top_p=1, seed=(1 << 63) - 1),
        AskTerms("?", at_ms=0, max_tokens=1, temperature=0, top_p=0.01, seed=0),
        OpenTerms(metadata={"key": "four", "k": ""}),
    ],
)
def test_what_is_at_its_bound_passes(terms: AskTerms | OpenTerms) -> None:
    terms.check(LIMITS)


@pytest.mark.parametrize(
    ("terms", "refused", "param"),
    [
        (AskTerms("0123456789x"), QuestionTooLong, "question"),
        (AskTerms(" "), BadRequest, "question"),
        (AskTerms("?", at_ms=LATEST_MS + 1), BadRequest, "at_ms"),
        (AskTerms("?", max_tokens=201), BadRequest, "max_tokens"),
        (AskTerms("?", top_p=0), BadRequest, "top_p"),
        (AskTerms("?", seed=1 << 63), BadRequest, "seed"),
        (OpenTerms(metadata={"a": "", "b": "", "c": ""}), TooLarge, "metadata"),
        (OpenTerms(metadata={"long": ""}), TooLarge, "metadata"),
        (OpenTerms(metadata={"k": "fiver"}), TooLarge, "metadata"),
        (OpenTerms(metadata={"": ""}), BadRequest, "metadata"),
    ],
)
def test_what_is_beyond_is_refused_by_name(
    terms: AskTerms | OpenTerms, refused: type[LonglookError], param: str
) -> None:
    with pytest.raises(refused) as error:
        terms.check(LIMITS)
    assert error.value.param == param


@pytest.mark.parametrize(
    "other", [{"question": "who?"}, {"mode": "live"}, {"at_ms": 8}, {"remember": False}, {"seed": 1}, {"top_p": 0.5}]
)
def test_a_question_is_the_same_where_all_that_was_said_is(other: dict[str, Any]) -> None:
    terms = AskTerms("what?")
    assert terms.same_as(ASK)
    assert replace(terms, at_ms=7, seed=0).same_as(ASK)
    assert not replace(terms, **other).same_as(ASK)
    assert replace(terms, **other).digest() != terms.digest()
