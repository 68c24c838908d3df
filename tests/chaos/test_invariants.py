import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.invariants import Summary, Witness

pytestmark = pytest.mark.unit

Events = list[dict[str, Any]]


def spell(token_ids: Sequence[int]) -> str:
    return "".join(chr(ord("a") + token_id % 26) for token_id in token_ids)


def answer(question_id: str, token_ids: list[int], *, cuts: Sequence[int] = (), finish: str = "stop") -> Events:
    """The events of one answer, its tokens in pieces."""
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(token_ids)), len(token_ids)]
    pieces = [(start, token_ids[start:end]) for start, end in pairwise(edges) if end > start]
    return [
        {"type": "question.accepted", "id": question_id},
        {"type": "answer.started", "id": question_id, "as_of_ms": 0, "mode": "frozen"},
        *(
            {"type": "answer.delta", "id": question_id, "index": at, "token_ids": ids, "text": spell(ids)}
            for at, ids in pieces
        ),
        {"type": "answer.done", "id": question_id, "text": spell(token_ids), "finish_reason": finish},
    ]


def woven(answers: list[Events], order: random.Random) -> Events:
    """Several answers at once, each in its own order."""
    waiting = [list(events) for events in answers]
    result: Events = []
    while waiting := [events for events in waiting if events]:
        result.append(order.choice(waiting).pop(0))
    return result


def stamped(events: Events, takeovers: Sequence[int] = ()) -> Events:
    """Event ids as the output stream gives them out; at ``takeovers`` another worker speaks on."""
    epoch, n, result = 1, 0, Events()
    for place, event in enumerate(events):
        if place in takeovers:
            epoch, n = epoch + 1, 0
            data = {"lost_ms": 500}
            result.append({"type": "notice", "code": "worker_changed", "data": data, "event_id": f"{epoch}-0"})
        n += 1
        numbered = event["type"] != "question.accepted"
        result.append({**event, "event_id": f"{epoch}-{n}"} if numbered else event)
    return result


def watch(events: Events, *questions: str) -> Witness:
    witness = Witness("s_1", spell)
    for question_id in questions:
        witness.asked(question_id)
    for event in events:
        witness.saw(event)
    witness.finish()
    return witness


def broken(events: Events, *questions: str) -> set[str]:
    return {violation.rule for violation in watch(events, *questions).violations}


HELLO = stamped(answer("q1", [7, 4, 11, 11, 14], cuts=(2, 3)))
# 0 accepted, 1 started, 2 "he", 3 "l", 4 "lo", 5 done


@settings(deadline=None)
@given(
    tokens=st.lists(st.lists(st.integers(0, 99), max_size=12), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 11), max_size=6),
    takeovers=st.sets(st.integers(0, 30), max_size=3),
    seed=st.integers(0, 2**32),
)
def test_a_faultless_run_breaks_nothing(
    tokens: list[list[int]], cuts: list[int], takeovers: set[int], seed: int
) -> None:
    names = [f"q{number}" for number in range(len(tokens))]
    answers = [answer(name, ids, cuts=cuts) for name, ids in zip(names, tokens, strict=True)]
    events = stamped(woven(answers, random.Random(seed)), sorted(takeovers))
    witness = watch(events, *names)
    assert witness.violations == []
    assert witness.summary().tokens == sum(map(len, tokens))
    assert witness.summary().done == witness.summary().accepted == len(tokens)


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(0, 99), min_size=3, max_size=12),
    takeovers=st.sets(st.integers(1, 8), max_size=2),
    place=st.integers(0, 10_000),
    fault=st.sampled_from(["drop", "repeat", "swap"]),
)
def test_no_single_fault_goes_unseen(tokens: list[int], takeovers: set[int], place: int, fault: str) -> None:
    events = stamped(answer("q1", tokens, cuts=range(1, 12)), sorted(takeovers))
    numbered = [index for index, event in enumerate(events) if event["type"].startswith("answer.")]
    at = numbered[place % len(numbered)]
    if fault == "drop":
        del events[at]
    elif fault == "repeat":
        events.insert(at + 1, events[at])
    else:
        other = numbered[(place + 1) % len(numbered)]
        events[at], events[other] = events[other], events[at]
    assert broken(events, "q1")


def change(event: int, **fields: object) -> Callable[[Events], None]:
    return lambda events: events[event].update(fields)


def test_what_follows_an_end_is_told() -> None:
    late = {**HELLO[4], "event_id": "1-9"}
    assert broken([*HELLO, late], "q1") == {"outcome"}


def test_an_accepted_question_without_an_end_is_told() -> None:
    assert broken(HELLO[:5], "q1") == {"outcome"}
    assert broken(HELLO[:1], "q1") == {"outcome"}


def test_a_question_that_was_never_accepted_owes_nothing() -> None:
    witness = watch([], "q1")
    assert witness.violations == []
    assert witness.summary() == Summary(asked=1, accepted=0, done=0, failed={}, tokens=0, epochs=0, lost_ms=0)


def test_an_end_with_a_reason_is_an_end() -> None:
    failed = {"type": "answer.failed", "id": "q1", "error": {"code": "worker_lost"}, "event_id": "2-1"}
    witness = watch([*HELLO[:3], failed], "q1")
    assert witness.violations == []
    assert witness.summary().failed == {"worker_lost": 1}


def test_an_answer_that_nobody_asked_for_is_told() -> None:
    assert broken(HELLO) == {"unasked"}


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (change(3, index=1), "tokens"),
        (change(3, index=4), "tokens"),
        (change(1, type="notice", code="x", data={}), "tokens"),
        (change(4, text="l"), "text"),
        (change(4, token_ids=[1, 2]), "text"),
        (change(5, text="hello!"), "text"),
        (change(5, event_id="1-2"), "order"),
        (change(5, event_id="0-9"), "order"),
    ],
)
def test_each_fault_has_its_rule(fault: Callable[[Events], None], rule: str) -> None:
    events = [dict(event) for event in HELLO]
    fault(events)
    assert broken(events, "q1") == {rule}


def test_an_answer_begun_again_by_the_next_owner_is_told() -> None:
    again = {**HELLO[1], "event_id": "2-1"}
    rest = [{**event, "event_id": f"2-{n}"} for n, event in enumerate(HELLO[3:], 2)]
    assert broken([*HELLO[:3], again, *rest], "q1") == {"outcome"}


def test_a_stale_owner_that_speaks_on_is_told() -> None:
    taken_over = {"type": "notice", "code": "worker_changed", "data": {"lost_ms": 0}, "event_id": "2-0"}
    assert "order" in broken([*HELLO[:4], taken_over, *HELLO[4:]], "q1")


def test_an_event_seen_twice_is_told() -> None:
    taken_over = {"type": "notice", "code": "worker_changed", "data": {"lost_ms": 0}, "event_id": "2-0"}
    assert broken([taken_over, taken_over]) == {"order"}


def test_characters_that_came_apart_are_told() -> None:
    witness = Witness("s_1")
    witness.asked("q1")
    for event in HELLO[:2]:
        witness.saw(event)
    witness.saw({**HELLO[2], "text": "h\ufffd"})
    witness.saw({**HELLO[5], "text": "h\ufffd"})
    assert [str(violation) for violation in witness.finish()] == ["text: s_1/q1: a character came apart"]


def test_a_cancelled_answer_ends_with_no_more_than_was_streamed() -> None:
    for text, rules in (("", set()), ("hel", set()), ("help", {"text"})):
        end = {**HELLO[5], "finish_reason": "cancelled", "text": text}
        assert broken([*HELLO[:5], end], "q1") == rules


def test_the_summary_counts_epochs_and_reported_losses() -> None:
    witness = watch(stamped(answer("q1", [1, 2, 3], cuts=(1, 2)), (3, 5)), "q1")
    assert witness.violations == []
    assert witness.summary() == Summary(asked=1, accepted=1, done=1, failed={}, tokens=3, epochs=3, lost_ms=1000)
