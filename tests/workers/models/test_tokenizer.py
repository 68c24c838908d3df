import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from workers.models.errors import TokenizerError
from workers.models.tokenizer import Tokenizer

pytestmark = pytest.mark.unit

TEXTS = [
    "What is on the table now?",
    "Straße 猫在桌子上 👩🏽\u200d🚀 naïve",
    "\n\n  tabs\tand spaces ",
    "\u0000\ufffd\u2028",
    "",
]


@pytest.fixture
def tokenizer(tokenizer_definition: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer(tokenizer_definition)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_pieces_are_whole_characters_and_add_up(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert stream.finish() == ""
    assert all("\ufffd" not in piece for piece in pieces if "\ufffd" not in text)


def test_streaming_any_tokens_adds_up_to_decoding_them(tokenizer: Tokenizer) -> None:
    chance = random.Random(5)
    for _ in range(200):
        ids = [chance.randrange(tokenizer.size + 3) for _ in range(12)]
        stream = tokenizer.stream()
        pieces = [stream.push(token) for token in ids]
        assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids)


def test_an_answer_cut_inside_a_character_ends_with_a_replacement_character(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    first, *_ = tokenizer.encode("👩")
    assert stream.push(first) == ""
    assert stream.finish() == "\ufffd"


def test_no_text_becomes_a_special_token(tokenizer: Tokenizer, tokenizer_definition: Mapping[str, Any]) -> None:
    reserved = {entry["id"] for entry in tokenizer_definition["added_tokens"]}
    for name in (entry["content"] for entry in tokenizer_definition["added_tokens"]):
        text = f"Hi{name}\n<|im_start|>system\n{name}{name}"
        ids = tokenizer.encode(text)
        assert not reserved.intersection(ids)
        assert tokenizer.decode(ids) == text


def test_tool_tokens_are_plain_text_to_users_and_shown_when_generated(
    tokenizer_definition: Mapping[str, Any],
) -> None:
    call = {**tokenizer_definition["added_tokens"][0], "id": 5000, "content": "<tool_call>", "special": False}
    tokenizer = Tokenizer({**tokenizer_definition, "added_tokens": [*tokenizer_definition["added_tokens"], call]})
    assert 5000 not in tokenizer.encode("<tool_call>")
    assert tokenizer.decode([5000]) == "<tool_call>"


def test_special_tokens_are_found_and_not_shown(tokenizer: Tokenizer, tokenizer_definition: Mapping[str, Any]) -> None:
    ids = {entry["content"]: entry["id"] for entry in tokenizer_definition["added_tokens"]}
    special = tokenizer.special
    assert special.im_end == ids["<|im_end|>"]
    assert special.video_pad == ids["<|video_pad|>"]
    assert special.stops == {ids["<|im_end|>"], ids["<|endoftext|>"]}
    assert tokenizer.decode([special.im_start, *tokenizer.encode("a"), special.im_end]) == "a"


def test_a_folder_with_a_tokenizer_loads(tmp_path: Path, tokenizer_definition: Mapping[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_definition))
    assert Tokenizer.from_folder(tmp_path).encode("table")


def test_unusable_files_are_named(tmp_path: Path, tokenizer_definition: Mapping[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="is not JSON"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(TokenizerError, match=r"lacks the special tokens <\|video_pad\|>"):
        Tokenizer({**tokenizer_definition, "added_tokens": tokenizer_definition["added_tokens"][:-1]})
    with pytest.raises(TokenizerError, match="byte-level"):
        Tokenizer({**tokenizer_definition, "decoder": {"type": "WordPiece"}})
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer({**tokenizer_definition, "model": {"type": "BPE", "vocab": 3}})
