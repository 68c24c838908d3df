import msgspec
import pytest

from protocol.codec import decode, decode_lane, decode_output, encode
from protocol.errors import BadRequest
from protocol.messages import (
    AnswerDelta,
    AnswerDone,
    AnswerFailed,
    AnswerStarted,
    Ask,
    Cancel,
    Close,
    Closed,
    Control,
    Lane,
    MediaEnd,
    Notice,
    Output,
    Owned,
    Picture,
    SessionStats,
    Sound,
    Timing,
    Usage,
)

pytestmark = pytest.mark.unit

ENTRIES: list[tuple[Lane, Control | Picture | Sound]] = [
    ("control", Ask(question_id="q", text="was?", at_ms=5, mode="live", seed=3, asked_at=1.5)),
    ("control", Cancel(question_id="q")),
    ("control", MediaEnd(at_ms=9)),
    ("control", Close(reason="client")),
    ("video", Picture(t_ms=1, track=2, sequence=3, width=4, height=5, jpeg=b"\xff\xd8", arrived_at=6.5)),
    ("audio", Sound(t_ms=1, track=2, sequence=3, pcm=b"\x00\x01", arrived_at=6.5)),
]
OUTPUTS: list[Output] = [
    Owned(worker_id="w", lost_ms=3),
    AnswerStarted(question_id="q", as_of_ms=1, mode="frozen"),
    AnswerDelta(question_id="q", index=0, token_ids=[1, 2], text="ü"),
    AnswerDone(
        question_id="q", text="ü", finish_reason="stop", as_of_ms=1, usage=Usage(prompt_tokens=1), timing=Timing()
    ),
    AnswerFailed(question_id="q", code="worker_lost", message="m"),
    Notice(code="c", message="m", data={"n": 1, "f": 0.5, "s": "x"}),
    Closed(reason="client"),
]


@pytest.mark.parametrize(("lane", "message"), ENTRIES, ids=lambda value: type(value).__name__)
def test_lane_entries_come_back_as_they_went(lane: Lane, message: Control | Picture | Sound) -> None:
    assert decode_lane(lane, encode(message)) == message


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda value: type(value).__name__)
def test_outputs_come_back_as_they_went(output: Output) -> None:
    assert decode_output(encode(output)) == output


def test_fields_of_a_newer_version_are_ignored() -> None:
    newer = msgspec.msgpack.encode({"type": "cancel", "question_id": "q", "because": "bored"})
    assert decode_lane("control", newer) == Cancel(question_id="q")


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", encode({"type": "telepathy"}), encode(Owned(worker_id="w"))])
def test_what_is_no_lane_entry_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_lane("control", data)


def test_an_output_of_a_newer_version_becomes_a_notice() -> None:
    output = decode_output(encode({"type": "telepathy"}))
    assert isinstance(output, Notice)
    assert output.code == "unknown_output"


def test_a_picture_is_no_sound() -> None:
    with pytest.raises(BadRequest):
        decode_lane("audio", encode(ENTRIES[4][1]))


def test_records_have_defaults_for_what_an_older_version_left_out() -> None:
    assert decode(SessionStats, encode({})) == SessionStats()
