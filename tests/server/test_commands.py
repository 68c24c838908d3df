import json
import random
import struct

import pytest

from protocol.errors import BadHeader, BadRequest, LonglookError, TooLarge
from server.media.tracks import Codec
from server.routes.commands import MediaEnd, NotJson, Ping, QuestionCreate, command_id, parse_chunk, parse_command

pytestmark = pytest.mark.unit


def test_a_chunk_by_its_header() -> None:
    found = parse_chunk(struct.pack("!BBHIq", 1, 5, 65_535, 2**32 - 1, -5) + b"payload")
    assert (found.codec, found.track, found.sequence, found.capture_us) == (Codec.H264, 65_535, 2**32 - 1, -5)
    assert found.data == b"payload"


@pytest.mark.parametrize(
    "message", [b"", bytes(16), struct.pack("!BBHIq", 1, 1, 0, 0, 0), bytes(100), b"\x01\x0e" + bytes(30)]
)
def test_what_is_no_chunk(message: bytes) -> None:
    with pytest.raises(BadHeader):
        parse_chunk(message)


def test_commands() -> None:
    question = parse_command('{"type": "question.create", "question": "why?", "new_field": 1}', 1000)
    assert question == QuestionCreate(question="why?")
    assert question.terms().max_tokens == 128
    assert parse_command('{"type": "media.end"}', 1000) == MediaEnd()
    assert parse_command('{"type": "ping", "t": 1.5}', 1000) == Ping(t=1.5)


@pytest.mark.parametrize("text", ["{", "", "nonsense", '{"x":' + "[" * 60_000])
def test_text_of_another_protocol(text: str) -> None:
    with pytest.raises(NotJson):
        parse_command(text, 1 << 20)
    assert command_id(text) is None


@pytest.mark.parametrize(
    "command",
    [
        {"type": "x", "id": "q"},
        {"id": "q"},
        {"type": "question.create", "id": "q"},
        {"type": "question.create", "question": 1, "id": "q"},
    ],
)
def test_a_wrong_command_is_named(command: dict[str, object]) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_command(json.dumps(command), 1000)
    assert not isinstance(refused.value, NotJson)
    assert command_id(json.dumps(command)) == "q"


def test_commands_have_a_size() -> None:
    with pytest.raises(TooLarge):
        parse_command('{"type": "ping", "t": "' + "é" * 50 + '"}', 100)


@pytest.mark.parametrize("seed", range(200))
def test_any_text_is_a_command_or_refused(seed: int) -> None:
    source = random.Random(seed)
    text = list('{"type": "question.create", "question": "why?", "id": "q", "at_ms": 5, "seed": null}')
    for _ in range(source.randrange(1, 6)):
        text[source.randrange(len(text))] = chr(source.randrange(32, 1200))
    try:
        parse_command("".join(text), 1000)
    except LonglookError:
        pass
