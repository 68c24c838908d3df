"""The README's table, made of the results that are kept: no figure stands there that no command has written.

python -m bench.table
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_KINDS = ("present", "backward", "absent")


def table(results: Path = RESULTS) -> str:
    """Markdown: what was measured, the figure, and the command that measures it again."""
    quality = [_read(path) for path in sorted(results.glob("quality-*.json"))]
    live, engine, card = (_read(results / name) for name in ("live-cpu.json", "engine-cpu.json", "engine-cuda.json"))
    rows = [*_quality(quality), *_live(live), *_engine(engine), *_card(card)]
    lines = ["| what | measured | again |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{command}` |" for what, figure, command in rows]
    machines = dict.fromkeys(f"{r['hardware']}, {r['date'][:10]}" for r in (*quality, live, engine["machine"]))
    gpu, date = card["machine"]["gpu"], card["machine"]["date"][:10]
    last = f"Without a GPU: the bundled model, float32, {'; '.join(machines)}. On the GPU: bfloat16, {gpu}, {date}."
    return "\n".join([*lines, "", last])


Row = tuple[str, str, str]


def _quality(results: list[dict[str, Any]]) -> Iterator[Row]:
    """Means over seeds, and in brackets the lowest and the highest of a single seed."""
    seeds = ", ".join(re.findall(r"--seed (\d+)", " ".join(result["command"] for result in results)))
    command = "python -m bench.quality --suite first-light --seed N"
    parts = {
        "unseen clips of 45 s": [result["summary"] for result in results],
        "a session ten minutes old": [result["summary"]["aged"] for result in results],
        "pictures replaced by grey (what can be guessed)": [result["summary"]["blind"] for result in results],
    }
    for what, told in parts.items():
        asked = sum(sum(part["asked"].values()) for part in told)
        figure = ", ".join(f"{name} {_share([part[name] for part in told])}" for name in _KINDS)
        yield f"{asked} questions on {what}, right answers, seeds {seeds}", figure, command


def _share(shares: list[float]) -> str:
    mean, lowest, highest = (100 * share for share in (statistics.mean(shares), min(shares), max(shares)))
    return f"{mean:.1f} %" + (f" ({lowest:.1f} to {highest:.1f})" if lowest < highest else "")


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


def _card(result: dict[str, Any]) -> Iterator[Row]:
    load, figures, command = result["load"], result["figures"], "python -m bench.engine --device cuda"
    keys = f"{figures['ingest_keys']:,} keys each"
    streams = f"GPU, {result['machine']['model']} with random weights, {load['sessions']} live streams of {keys}"
    yield (
        f"{streams}: pictures of 448 x 448 taken in, all of each kept",
        f"{figures['ingest_full_fps']:.0f} a second",
        command,
    )
    beside = f"{figures['itl_under_load_p50_ms']:.0f} / {figures['itl_under_load_ms']:.0f} ms"
    yield (
        f"the same, {figures['loaded_fps']:.0f} a second beside {load['answers']} answers: between tokens p50 / p99",
        beside,
        command,
    )
    steps = " / ".join(f"{figures[f'decode{count}_ms']:.1f}" for count in load["decoding"])
    counts = " / ".join(map(str, load["decoding"]))
    yield f"the same, a token for each of {counts} answers at once", f"{steps} ms", command
    alone = f"{figures['frame_quiet_ms']:.1f} / {figures['first_token_engine_ms']:.1f} ms"
    yield "the same, one stream: a picture into memory / a question's first token, in the engine", alone, command


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    print(table())
