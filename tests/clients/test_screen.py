from __future__ import annotations

import io

import pytest
from rich.console import Console

from longlook_client import Health, Memory
from longlook_client._keys import Editor
from longlook_client._screen import Exchange, Screen

pytestmark = pytest.mark.unit


def shown(screen: Screen, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=90, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen)
    return capture.get()


def test_screen_shows_health_answers_and_the_line_being_typed() -> None:
    editor = Editor()
    editor.feed(b"and no")
    screen = Screen("clip.mp4", editor, status="playing")
    screen.health = Health(
        session_time_ms=61_500, fps_in=10, fps_out=1, memory=Memory(30, 120, 64), dropped={"late": 2}
    )
    screen.exchanges.append(Exchange("what?", "frozen", "a red ball", as_of_ms=60_000, done=True))
    text = shown(screen)
    for part in (
        "clip.mp4",
        "playing",
        "1:01.5",
        "1.0 of 10.0 fps",
        "memory 25%",
        "a red ball",
        "as of 1:00.0",
        "and no",
    ):
        assert part in text


def test_only_the_newest_exchanges_that_fit_are_shown() -> None:
    screen = Screen("clip.mp4", Editor())
    screen.exchanges.extend(Exchange(f"question {n}", "frozen", f"answer {n}", done=True) for n in range(30))
    text = shown(screen, height=20)
    assert "question 29" in text
    assert "question 1\n" not in text


def test_markup_in_answers_is_text() -> None:
    screen = Screen("clip.mp4", Editor())
    screen.exchanges.append(Exchange("[bold]?", "frozen", "[red]x[/red]", done=True))
    assert "[red]x[/red]" in shown(screen)
