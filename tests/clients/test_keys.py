from __future__ import annotations

import pytest

from longlook_client._keys import Editor

pytestmark = pytest.mark.unit


def test_typed_text_becomes_a_line_at_enter() -> None:
    editor = Editor()
    assert editor.feed(b"what ") == []
    assert editor.text == "what "
    assert editor.feed(b"now?\nnext") == ["what now?"]
    assert editor.text == "next"


def test_letters_of_several_bytes_may_arrive_in_parts() -> None:
    editor = Editor()
    editor.feed("ä".encode()[:1])
    editor.feed("ä".encode()[1:])
    assert editor.text == "ä"


@pytest.mark.parametrize(
    ("bursts", "left"),
    [((b"ab", b"\x7f"), "a"), ((b"ab\x15",), ""), ((b"a", b"\x1b[A"), "a"), ((b"a\x00b",), "ab")],
)
def test_editing_keys(bursts: tuple[bytes, ...], left: str) -> None:
    editor = Editor()
    for burst in bursts:
        editor.feed(burst)
    assert editor.text == left


def test_empty_lines_ask_nothing() -> None:
    assert Editor().feed(b"  \n\n") == []


def test_tab_turns_the_mode_there_and_back() -> None:
    editor = Editor()
    modes = []
    for _ in range(2):
        editor.feed(b"\t")
        modes.append(editor.live)
    assert modes == [True, False]


def test_control_d_ends() -> None:
    editor = Editor()
    editor.feed(b"\x04")
    assert editor.ended
