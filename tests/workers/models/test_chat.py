"""Hand-written tables: what each verb of the grammar lays out, and where."""

from collections.abc import Callable

import pytest

from workers.models.chat import Chat, Span, SpecialTokens
from workers.models.clock import Clock

pytestmark = pytest.mark.unit

END_OF_TEXT, START, END, OPEN, CLOSE, IMAGE, PAD = 900, 901, 902, 903, 904, 905, 906


class Letters:
    """An encoder whose ids are the characters themselves."""

    special = SpecialTokens(END_OF_TEXT, START, END, OPEN, CLOSE, IMAGE, PAD)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.fixture
def chat() -> Chat:
    return Chat(Letters(), rate=2)


@pytest.fixture
def timed() -> Chat:
    return Chat(Letters(), rate=2, timestamps=True)


def readable(span: Span) -> str:
    names = {END_OF_TEXT: "<eot>", START: "<start>", END: "<end>", OPEN: "<open>", CLOSE: "<close>", PAD: "#"}
    return "".join(names.get(token) or chr(token) for token in span.tokens.tolist())


def columns(span: Span) -> list[tuple[int, int, int]]:
    return [(t, h, w) for t, h, w in span.positions.T.tolist()]


def line(first: int, last: int) -> list[tuple[int, int, int]]:
    return [(i, i, i) for i in range(first, last + 1)]


def test_header(chat: Chat) -> None:
    header = chat.header("Look.")
    assert readable(header) == "<start>system\nLook.<end>\n<start>user\n"
    assert columns(header) == line(0, 20)
    assert header.clock == Clock(rate=2, next=21)


@pytest.mark.parametrize("header", [Chat.header, lambda chat: chat.header("")])
def test_without_instructions_the_usual_ones_stand(chat: Chat, header: Callable[[Chat], Span]) -> None:
    assert readable(header(chat)) == "<start>system\nYou are watching a live video.<end>\n<start>user\n"


def test_first_frame_opens_a_segment_and_the_next_one_continues_it(chat: Chat) -> None:
    first = chat.frame(Clock(rate=2, next=10), 0, 2, 2)
    assert readable(first) == "<open>####"
    assert columns(first) == [(10, 10, 10), (11, 11, 11), (11, 11, 12), (11, 12, 11), (11, 12, 12)]
    assert first.clock.next == 13

    second = chat.frame(first.clock, 1000, 2, 2)
    assert readable(second) == "####"
    assert columns(second) == [(13, 11, 11), (13, 11, 12), (13, 12, 11), (13, 12, 12)]
    assert second.clock.next == 14


def test_thirty_seconds_end_a_segment(chat: Chat) -> None:
    first = chat.frame(Clock(rate=2, next=10), 500, 1, 1)
    last = chat.frame(first.clock, 30_499, 1, 1)
    assert (readable(last), columns(last)) == ("#", [(71, 11, 11)])  # 29.999 s round to 60 steps of time

    beyond = chat.frame(last.clock, 30_500, 1, 1)
    assert readable(beyond) == "<close><open>#"
    assert columns(beyond) == line(72, 74)


def test_scene_change_starts_a_segment_anew(chat: Chat) -> None:
    first = chat.frame(Clock(rate=2, next=10), 0, 1, 2)
    cut = chat.frame(first.clock, 1000, 1, 2, scene_change=True)
    assert readable(cut) == "<close><open>##"
    assert columns(cut) == [(13, 13, 13), (14, 14, 14), (15, 15, 15), (15, 15, 16)]

    opening = chat.frame(Clock(rate=2, next=10), 0, 1, 2, scene_change=True)
    assert readable(opening) == "<open>##"


def test_another_shape_starts_a_segment_anew(chat: Chat) -> None:
    first = chat.frame(Clock(rate=2, next=10), 0, 1, 2)
    turned = chat.frame(first.clock, 1000, 2, 1)
    assert readable(turned) == "<close><open>##"
    assert columns(turned) == [(13, 13, 13), (14, 14, 14), (15, 15, 15), (15, 16, 15)]


def test_question_on_a_branch_leaves_the_trunk_its_open_segment(chat: Chat) -> None:
    trunk = chat.frame(Clock(rate=2, next=10), 0, 2, 2).clock
    question = chat.question(trunk, "Hm?")
    assert readable(question) == "<close>Hm?<end>\n<start>assistant\n"
    assert columns(question) == line(13, 29)
    assert question.clock == Clock(rate=2, next=30)

    grown = chat.frame(trunk, 1000, 2, 2)
    assert (readable(grown), columns(grown)[0]) == ("####", (13, 11, 11))


def test_question_before_any_frame_closes_nothing(chat: Chat) -> None:
    question = chat.question(Clock(rate=2, next=4), "Hm?")
    assert readable(question) == "Hm?<end>\n<start>assistant\n"
    assert columns(question) == line(4, 19)


def test_frozen_answer_runs_on_from_its_question(chat: Chat) -> None:
    question = chat.question(Clock(rate=2, next=4), "Hm?")
    assert columns(chat.answer(question.clock, [65, 66])) == line(20, 21)


def test_live_answer_steps_over_what_the_trunk_took_meanwhile(chat: Chat) -> None:
    trunk = chat.frame(Clock(rate=2, next=0), 0, 1, 1).clock
    branch = chat.question(trunk, "").clock
    assert (trunk.next, branch.next) == (2, 16)
    taken = []
    for second in range(6, 12):
        trunk = chat.frame(trunk, second * 1000, 1, 1).clock
        token = chat.answer(branch.following(trunk), [65])
        branch = token.clock
        taken.append(columns(token)[0])
    assert taken == [(i, i, i) for i in (16, 17, 18, 20, 22, 24)]


def test_remembered_turn_closes_the_segment_and_the_next_frame_opens_another(chat: Chat) -> None:
    trunk = chat.frame(Clock(rate=2, next=10), 0, 2, 2).clock
    turn = chat.remembered(trunk, "Hm?", [*b"No.", END])
    assert readable(turn) == "<close>Hm?<end>\n<start>assistant\nNo.<end>\n<start>user\n"
    assert columns(turn) == line(13, 40)

    after = chat.frame(turn.clock, 1000, 2, 2)
    assert readable(after) == "<open>####"
    assert columns(after) == [(41, 41, 41), (42, 42, 42), (42, 42, 43), (42, 43, 42), (42, 43, 43)]


@pytest.mark.parametrize("ending", [[], [END], [END_OF_TEXT], [END, END_OF_TEXT]])
def test_remembered_answer_ends_with_one_end_of_turn(chat: Chat, ending: list[int]) -> None:
    turn = chat.remembered(Clock(rate=2), "?", [65, *ending])
    assert readable(turn) == "?<end>\n<start>assistant\nA<end>\n<start>user\n"


def test_timed_frames_stand_alone_behind_their_time(timed: Chat) -> None:
    first = timed.frame(Clock(rate=2, next=10), 0, 2, 3)
    assert readable(first) == "<0.0 seconds><open>######"
    assert columns(first)[:14] == line(10, 23)
    assert columns(first)[14:] == [(24, 24, 24), (24, 24, 25), (24, 24, 26), (24, 25, 24), (24, 25, 25), (24, 25, 26)]
    assert first.clock.next == 27

    second = timed.frame(first.clock, 61_250, 1, 1)
    assert readable(second) == "<close><61.2 seconds><open>#"
    assert columns(second) == line(27, 43)


def test_questions_among_timed_frames_close_the_one_before(timed: Chat) -> None:
    trunk = timed.frame(Clock(rate=2, next=10), 900, 1, 1).clock
    assert readable(timed.question(trunk, "Hm?")).startswith("<close>Hm?<end>")
    after = timed.frame(timed.remembered(trunk, "Hm?", [*b"No.", END]).clock, 1000, 1, 1)
    assert readable(after) == "<1.0 seconds><open>#"
