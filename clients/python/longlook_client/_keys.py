"""Lines typed by a person: edited key by key in a terminal, or read whole from a pipe."""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

BACKSPACE: Final = ("\x7f", "\b")
ERASE_LINE: Final = "\x15"
END: Final = "\x04"
ESCAPE: Final = "\x1b"
LINES_WAITING: Final = 16


class Editor:
    """One line being typed. ``feed`` takes what the terminal sent and returns the lines that it finished."""

    def __init__(self) -> None:
        self.text = ""
        self.live = False
        self.ended = False
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode

    def feed(self, data: bytes) -> list[str]:
        typed = self._decode(data)
        if typed.startswith(ESCAPE):  # arrows and the like come as one burst: nothing here answers to them
            return []
        return [line for character in typed if (line := self._press(character)) is not None]

    def _press(self, character: str) -> str | None:
        if character in ("\r", "\n"):
            line, self.text = self.text.strip(), ""
            return line or None
        if character in BACKSPACE:
            self.text = self.text[:-1]
        elif character == ERASE_LINE:
            self.text = ""
        elif character == "\t":
            self.live = not self.live
        elif character == END:
            self.ended = True
        elif character.isprintable():
            self.text += character
        return None


async def typed_lines(editor: Editor) -> AsyncIterator[str]:
    """Lines from the terminal on standard input, until Ctrl-D."""
    lines: asyncio.Queue[str | None] = asyncio.Queue(LINES_WAITING)
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        data = os.read(descriptor, 1024)
        editor.ended = editor.ended or not data
        for line in editor.feed(data):
            if not lines.full():
                lines.put_nowait(line)
        if editor.ended and not lines.full():
            lines.put_nowait(None)

    loop = asyncio.get_running_loop()
    with _unbuffered(descriptor):
        loop.add_reader(descriptor, readable)
        try:
            while (line := await lines.get()) is not None:
                yield line
        finally:
            loop.remove_reader(descriptor)


async def piped_lines() -> AsyncIterator[str]:
    """Lines from a pipe on standard input, until its end."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip():
            yield line.strip()


@contextmanager
def _unbuffered(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
