"""The README's table, made of the results that are kept: no figure stands there that no command has written.

python -m bench.table
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def table(results: Path = RESULTS) -> str:
    """Markdown: what was measured, the figure, and the command that measures it again."""
    quality, live, engine = (_read(results / name) for name in ("quality.json", "live-cpu.json", "engine-cpu.json"))
    rows = [*_quality(quality), *_live(live), *_engine(engine)]
    lines = ["| what | measured | again |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{command}` |" for what, figure, command in rows]
    machines = dict.fromkeys(f"{r['hardware']}, {r['date'][:10]}" for r in (quality, live, engine["machine"]))
    return "\n".join([*lines, "", f"All on the bundled model, float32, without a GPU: {'; '.join(machines)}."])


Row = tuple[str, str, str]


def _quality(result: dict[str, Any]) -> Iterator[Row]:
    command = f"{result['command'].split(' --json')[0]}"
    parts = {
        "unseen clips of 45 s": result["summary"],
        "a session ten minutes old": result["summary"]["aged"],
        "pictures replaced by grey (what can be guessed)": result["summary"]["blind"],
    }
    for what, part in parts.items():
        asked = sum(part["asked"].values())
        figure = ", ".join(f"{name} {100 * part[name]:.1f} %" for name in ("present", "backward", "absent"))
        yield f"{asked} questions on {what}, right answers", figure, command


def _live(result: dict[str, Any]) -> Iterator[Row]:
    load, summary = result["load"], result["summary"]
    command = f"python -m bench.live --sessions {load['sessions']}"
    streams = f"{load['sessions']} live streams at 1 fps, a question to each every {load['every']:g} s"
    first = f"{summary['first_token_p50_ms']:.0f} / {summary['first_token_p95_ms']:.0f} ms"
    yield f"{streams}: first token p50 / p95", first, command
    age = f"{summary['frame_age_max_ms']:.0f} ms, {summary['dropped']:.0f} dropped"
    yield "the same: oldest frame when prefilled, frames dropped", age, command
    right = f"{100 * summary['right']:.1f} %, {summary['memory_slope_mib_a_minute']:+.2f} MiB a minute"
    yield "the same: right answers, growth of memory of all processes", right, command


def _engine(result: dict[str, Any]) -> Iterator[Row]:
    arms, command = result["arms"], "python -m bench.engine --device cpu"
    for keys in ("2000", "4000"):
        ours, theirs = (arms[name][keys]["fps"] for name in ("full", "transformers"))
        figure = f"{ours:.1f} frames/s; `transformers` {theirs:.1f}"
        yield f"one stream after {int(keys):,} tokens, every frame kept", figure, command
    window = arms["window"]
    figure = f"{window['1000']['fps']:.1f} and {window['4000']['fps']:.1f} frames/s"
    yield "the same in a bounded memory, after 1,000 and 4,000 tokens", figure, command


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    print(table())
