"""First token and memory against a session's age, ours beside vLLM's, as SVG drawn from a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Report

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 360, 70, 50, 40, 20
COLOURS = ("#0b6e4f", "#b3541e", "#4a4e9d")
TICKS = 5
FRAME_BYTES = 256 * 57_344  # a picture's keys and values in the Qwen2.5-VL-7B shape, bfloat16

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves by their names; x is a session's age in minutes."""

    title: str
    unit: str
    curves: Mapping[str, Points]

    def svg(self) -> str:
        every = [point for points in self.curves.values() for point in points]
        wide, high = max(x for x, _ in every) or 1.0, (max(y for _, y in every) or 1.0) * 1.1
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            'font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="22" font-size="15">{self.title}</text>',
            *_axes(wide, high, self.unit),
        ]
        for number, (name, points) in enumerate(self.curves.items()):
            parts += _curve(name, points, COLOURS[number % len(COLOURS)], number, (wide, high))
        return "\n".join([*parts, "</svg>", ""])


def draw(report: Report, folder: Path) -> list[Path]:
    """Writes what the report has enough for; returns the files."""
    written = []
    for name, chart in charts(report).items():
        path = folder / f"{name}.svg"
        path.write_text(chart.svg(), encoding="utf-8")
        written.append(path)
    return written


def charts(report: Report) -> dict[str, Chart]:
    looks = report.details.get("age", {}).get("looks")
    if not looks:
        return {}
    peer = report.arms.get("vllm", {})
    firsts = {"Longlook, memory full, bounded": _curve_of(looks, "first_token_ms", 1.0)}
    sizes = {"Longlook": _curve_of(looks, "kv_bytes", 1 / 2**30)}
    if peer.get("session"):
        again = [(each["pictures"] / 60, 1e3 * each["first_token_s"]) for each in peer["session"]]
        firsts["vLLM, the session sent again, caches warm"] = again
    if by_age := peer.get("streaming_sessions", {}).get("by_age"):
        firsts["vLLM, streaming session: one picture and a token"] = [
            (each["pictures"] / 60, each["picture_ms"]) for each in by_age
        ]
        sizes["vLLM, streaming session: nothing is evicted"] = [
            (each["pictures"] / 60, each["pictures"] * FRAME_BYTES / 2**30) for each in by_age
        ]
    return {
        "engine-first-token": Chart(
            "First token of a question by the session's age, one picture a second", "ms", firsts
        ),
        "engine-memory": Chart("Keys and values of a session by its age, one picture a second", "GiB", sizes),
    }


def _curve_of(looks: Sequence[Mapping[str, Any]], name: str, scale: float) -> Points:
    return [(look["age_s"] / 60, look[name] * scale) for look in looks]


def _place(point: tuple[float, float], size: tuple[float, float]) -> tuple[float, float]:
    x = LEFT + point[0] / size[0] * (WIDTH - LEFT - RIGHT)
    y = HEIGHT - BOTTOM - point[1] / size[1] * (HEIGHT - BOTTOM - TOP)
    return round(x, 1), round(y, 1)


def _axes(wide: float, high: float, unit: str) -> list[str]:
    parts = []
    for tick in range(TICKS + 1):
        x, y = _place((wide * tick / TICKS, high * tick / TICKS), (wide, high))
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{high * tick / TICKS:.3g}</text>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{wide * tick / TICKS:.3g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">age in minutes</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{TOP - 6}" text-anchor="end">{unit}</text>')
    return parts


def _curve(name: str, points: Points, colour: str, number: int, size: tuple[float, float]) -> list[str]:
    places = [_place(point, size) for point in points]
    line = " ".join(f"{x},{y}" for x, y in places)
    y = TOP + 14 + 18 * number
    return [
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places),
        f'<text x="{WIDTH - RIGHT - 8}" y="{y}" text-anchor="end" fill="{colour}">{name}</text>',
    ]
