"""Cursors, answers and pictures: the worker's parts that need neither bus nor engine."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from protocol.errors import BadMedia
from protocol.ids import START, EntryId
from protocol.leases import Cursor, LaneEntry, Lease
from protocol.messages import AnswerDelta, AnswerDone, AnswerFailed, AnswerStarted, Ask, Lane, SessionSpec
from workers.answers import Answers
from workers.engine.messages import QuestionDone, QuestionStarted, Refused, Tokens
from workers.perception.changes import Look, look
from workers.pictures import decode
from workers.reading import Reading

pytestmark = pytest.mark.unit


def make_lease(cursor: EntryId = START) -> Lease:
    spec = SessionSpec(
        session_id="s_1",
        tenant="t",
        model="m",
        fps=1.0,
        budget_tokens=64,
        policy="window",
        instructions="",
        ingest="live",
        created_at=0.0,
    )
    return Lease(
        spec=spec,
        worker_id="w",
        epoch=1,
        closing=False,
        control_cursor=cursor,
        control_end=cursor,
        media_end=None,
        newest_ms=-1,
        passed={},
        unanswered=(),
    )


def entries(lane: Lane, *ids: tuple[int, int]) -> list[LaneEntry]:
    return [LaneEntry("s_1", lane, EntryId(*pair), None) for pair in ids]


class TestReading:
    def test_cursors_stay_until_they_are_moved(self) -> None:
        reading = Reading(make_lease(EntryId(7, 0)))
        after = reading.after([*entries("video", (1, 1), (1, 2)), *entries("control", (9, 0))])
        assert after == {"video": Cursor(EntryId(1, 2), 2), "control": Cursor(EntryId(9, 0), 1)}
        assert (reading.at("video"), reading.at("control")) == (START, EntryId(7, 0))
        reading.move(after)
        assert reading.after(entries("video", (1, 5))) == {"video": Cursor(EntryId(1, 5), 3)}

    def test_holes_in_one_publishers_ids_are_counted(self) -> None:
        reading = Reading(make_lease())
        assert reading.missed("audio", entries("audio", (1, 4), (1, 5))) == 0  # where it began is not known
        reading.move(reading.after(entries("audio", (1, 4))))
        assert reading.missed("audio", entries("audio", (1, 5), (1, 8), (2, 3), (2, 5))) == 3
        assert reading.missed("video", entries("audio", (1, 9))) == 0


def make_ask(question_id: str = "q", age: float = 0.0) -> Ask:
    return Ask(question_id=question_id, text="was?", at_ms=0, asked_at=time.time() - age)


STARTED = QuestionStarted(session_id="s", question_id="q", as_of_ms=5, mode="live", prompt_tokens=9)
TOKENS = Tokens(session_id="s", question_id="q", index=0, token_ids=[1], text="a")
DONE = QuestionDone(session_id="s", question_id="q", finish_reason="stop", text="a", as_of_ms=5, completion_tokens=1)


class TestAnswers:
    def test_an_answer_from_beginning_to_end(self) -> None:
        answers = Answers()
        answers.begin(make_ask(age=2.0))
        assert answers.hear(STARTED) == AnswerStarted(question_id="q", as_of_ms=5, mode="live")
        assert answers.hear(TOKENS) == AnswerDelta(question_id="q", index=0, token_ids=[1], text="a")
        done = answers.hear(DONE)
        assert isinstance(done, AnswerDone)
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (9, 1)
        assert 2000 <= done.timing.queued_ms <= done.timing.first_token_ms <= done.timing.total_ms
        assert len(answers) == 0

    def test_what_was_not_asked_is_not_published(self) -> None:
        answers = Answers()
        assert [answers.hear(event) for event in (STARTED, TOKENS, DONE)] == [None, None, None]

    def test_an_answer_that_goes_on_does_not_start_again(self) -> None:
        answers = Answers()
        answers.begin(make_ask(), resumed=True)
        assert answers.hear(STARTED) is None
        assert answers.hear(TOKENS) is not None

    def test_every_way_to_fail_is_told(self) -> None:
        answers = Answers()
        for name in ("q", "r", "t"):
            answers.begin(make_ask(name))
        refused = answers.hear(Refused(session_id="s", question_id="r", code="question_too_long", message="m"))
        assert refused == AnswerFailed(question_id="r", code="question_too_long", message="m")
        broken = QuestionDone(
            session_id="s", question_id="q", finish_reason="error", text="", as_of_ms=0, completion_tokens=0
        )
        failed = answers.hear(broken)
        assert isinstance(failed, AnswerFailed)
        assert failed.code == "internal"
        assert answers.fail_all("worker_lost", "m") == [AnswerFailed(question_id="t", code="worker_lost", message="m")]
        assert "t" not in answers


def encoded(size: tuple[int, int], kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 0, 0)).save(stream, kind)
    return stream.getvalue()


class TestPictures:
    def test_a_jpeg_becomes_rgb(self) -> None:
        into = np.zeros((16, 32, 3), np.uint8)
        means = decode(encoded((32, 16), "JPEG"), into)
        np.testing.assert_array_equal(Look.told(means, 16, 32).blocks, look(into).blocks)
        assert np.abs(into.reshape(-1, 3).mean(0) - [200, 0, 0]).max() < 3

    @pytest.mark.parametrize(
        "data",
        [b"", b"\xff\xd8\xff", encoded((32, 16), "PNG"), encoded((16, 32), "JPEG"), encoded((32, 16), "JPEG")[:300]],
        ids=["nothing", "head", "png", "turned", "cut"],
    )
    def test_anything_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(BadMedia):
            decode(data, np.zeros((16, 32, 3), np.uint8))
