"""The README's table, made of the results that are kept: no figure stands there that no command has written.

python -m bench.table
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.report import young_first_token_ms

RESULTS = Path(__file__).parent / "results"
_KINDS = ("present", "backward", "absent")
_PROMISED = "first token p95 / between tokens p99 / oldest picture"


def table(results: Path = RESULTS) -> str:
    """Markdown: what was measured, the figure, and the command that measures it again."""
    quality = [_read(path) for path in sorted(results.glob("quality-*.json"))]
    live, engine, card = (_read(results / name) for name in ("live-cpu.json", "engine-cpu.json", "engine-cuda.json"))
    rows = [*_quality(quality), *_live(live), *_engine(engine), *_card(card)]
    lines = ["| what | measured | again |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{command}` |" for what, figure, command in rows]
    machines = dict.fromkeys(f"{r['hardware']}, {r['date'][:10]}" for r in (*quality, live, engine["machine"]))
    gpu, last_date = card["machine"]["gpu"], card["machine"]["date"][:10]
    dates = sorted({arm.get("date", last_date) for arm in card["details"].values()})
    cpu = f"Without a GPU: the bundled model, float32, {'; '.join(machines)}."
    last = f"{cpu} On the GPU: bfloat16, {gpu}, {' and '.join(dates)}."
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
    """What of a GPU has been measured so far."""
    details, peer = result["details"], result["arms"].get("vllm")
    rows: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
        "ingest": _ingest,
        "ingest_fp8": lambda told: ("the same with weights in eight bits", _rate(told)),
        "ingest_drop": lambda told: (
            f"{told['load']['sessions']} fixed cameras, {100 * told['kept']:.0f} % of the tokens kept",
            _rate(told),
        ),
        "ingest_moving": lambda told: (
            f"the same, cameras that move, {100 * told['kept']:.0f} % of the tokens kept",
            _rate(told),
        ),
        "loaded": _loaded,
        "decode": _decode,
        "decode_fp8": lambda told: ("the same with weights and memory in eight bits", _decode(told)[1]),
        "quiet": lambda told: (
            "the same, one stream: a picture into memory / a question's first token, in the engine",
            f"{told['frame_ms']:.1f} / {told['first_token_ms']:.1f} ms",
        ),
        "gateway": lambda told: ("the same, a first token through the gateway", f"{told['first_token_ms']:.1f} ms"),
        "age": _age,
        "live_full": lambda told: (f"live sessions of one picture a second, all kept: {_PROMISED}", _carried(told)),
        "live_drop": lambda told: ("the same, fixed cameras, unchanged patches dropped", _carried(told)),
    }
    model = f"GPU, the shape of {result['machine']['model']} with random weights: "
    command = "python -m bench.engine --device cuda"
    for arm, row in rows.items():
        told = details.get(arm, {})
        if told and not {"skipped", "failed"} & told.keys() and told.get("sessions", True):
            what, figure = row(told)
            yield model + what, figure, command
            model = ""
    if peer:
        what = f"vLLM {peer['version']} on the same card: pictures taken in"
        yield what, f"{peer['ingest_fps']:.0f} a second", f"{command} --vllm PYTHONPATH"


def _ingest(told: dict[str, Any]) -> tuple[str, str]:
    streams = f"{told['load']['sessions']} live streams of {told['keys']:,} keys each"
    return f"{streams}: pictures of 448 x 448 taken in, all of each kept", _rate(told)


def _carried(told: dict[str, Any]) -> str:
    kept = told["kept"]
    first, between = kept["first_token_p95_ms"], kept["between_p99_ms"]
    return (
        f"{told['sessions']} for {kept['seconds']:g} s; {first:.0f} / {between:.0f} / {kept['frame_age_max_ms']:.0f} ms"
    )


def _rate(told: dict[str, Any]) -> str:
    return f"{told['fps']:.0f} a second, for {told['load']['seconds']:g} s"


def _loaded(told: dict[str, Any]) -> tuple[str, str]:
    beside = f"all kept, {told['fps']:.0f} a second beside {told['load']['answers']} answers: between tokens p50 / p99"
    return beside, f"{told['between_p50_ms']:.0f} / {told['between_p99_ms']:.0f} ms"


def _decode(told: dict[str, Any]) -> tuple[str, str]:
    counts = told["load"]["decoding"]
    steps = " / ".join(f"{told[f'step{count}_ms']:.1f}" for count in counts)
    memories = f" on memories of {told['keys']:,} keys" if "keys" in told else ""
    return f"the same, a token for each of {' / '.join(map(str, counts))} answers at once{memories}", f"{steps} ms"


def _age(told: dict[str, Any]) -> tuple[str, str]:
    young, old = young_first_token_ms(told["looks"]), told["looks"][-1]
    what = f"the same, a question's first token, memory full / {old['age_s'] / 3600:.1f} hours old"
    return what, f"{young:.1f} / {old['first_token_ms']:.1f} ms"


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    print(table())
