"""What ``longlook watch`` shows: the stream's health, what was asked and answered, and the line being typed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from longlook_client._keys import Editor
from longlook_client._types import Health, Mode

EXCHANGES_KEPT: Final = 50
CHROME_LINES: Final = 8  # the panels and the input line around the answers


@dataclass
class Exchange:
    """One question, and its answer as far as it has come."""

    question: str
    mode: Mode
    text: str = ""
    as_of_ms: float | None = None
    failed: bool = False
    done: bool = False

    def __rich__(self) -> Text:
        line = Text.assemble(("? ", "bold cyan"), (self.question, "bold"), "\n")
        line.append(self.text or ("…" if not self.done else ""), "red" if self.failed else "")
        if self.as_of_ms is not None:
            line.append(f"   as of {_clock(self.as_of_ms)}", "dim")
        return line


@dataclass
class Screen:
    title: str
    editor: Editor
    status: str = "sending"
    health: Health | None = None
    exchanges: deque[Exchange] = field(default_factory=lambda: deque(maxlen=EXCHANGES_KEPT))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(3, (options.height or console.height) - CHROME_LINES)
        title, status = Text(self.title, "bold"), Text(self.status)
        yield Panel(self._stream(), title=title, subtitle=status, border_style="cyan")
        yield Group(*self._latest(console, options.max_width, height))
        yield self._input()

    def _stream(self) -> Table:
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(5):
            grid.add_column(ratio=1)
        health = self.health or Health()
        memory = health.memory
        share = memory.kv_bytes / memory.kv_budget_bytes if memory.kv_budget_bytes else 0.0
        grid.add_row(*(Text(name, "dim") for name in ("time", "seen", "last frame", "dropped", f"memory {share:.0%}")))
        grid.add_row(
            _clock(health.session_time_ms),
            f"{health.fps_out:.1f} of {health.fps_in:.1f} fps",
            f"{(health.last_frame_age_ms or 0) / 1000:.1f} s ago",
            str(sum(health.dropped.values())),
            ProgressBar(total=1.0, completed=share, width=16),
        )
        return grid

    def _latest(self, console: Console, width: int, height: int) -> list[Exchange]:
        """The newest exchanges that fit."""
        fitting: list[Exchange] = []
        for exchange in reversed(self.exchanges):
            height -= len(exchange.__rich__().wrap(console, width))
            if height < 0 and fitting:
                break
            fitting.insert(0, exchange)
        return fitting

    def _input(self) -> Text:
        mode = "live" if self.editor.live else "frozen"
        hints = f"   {mode} (Tab) · Enter asks · Ctrl-D leaves"
        return Text.assemble(("› ", "bold green"), self.editor.text, ("▌", "green"), (hints, "dim"))


def _clock(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "–"
    minutes, seconds = divmod(milliseconds / 1000, 60)
    return f"{int(minutes)}:{seconds:04.1f}"
