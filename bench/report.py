"""One file of what a GPU was measured to do: ours in `figures`, others' under `arms`, and what stands behind both.

Arms may be measured one by one, in several calls, as long as machine, model, precision and commit stay the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIGURES = (
    "ingest_full_fps",
    "ingest_vs_vllm",
    "ingest_fp8_fps",
    "ingest_drop_fps",
    "live_sessions_full",
    "live_sessions_drop",
    "frame_quiet_ms",
    "ttft_quiet_ms",
    "ttft_age_ratio",
    "decode32_ms",
    "itl_under_load_ms",
)
SAME = ("commit", "device", "gpu", "dtype", "model", "weights")
Details = dict[str, Any]


class Unlike(ValueError):
    """The file holds what was measured of something else."""


class Report:
    """What has been measured so far: `details` are ours, by arm, `arms` the others', by name; kept at `path`."""

    def __init__(self, machine: Mapping[str, Any], path: Path | None = None) -> None:
        self.machine, self._path = dict(machine), path
        self.details: dict[str, Details] = {}
        self.arms: dict[str, Details] = {}

    @classmethod
    def continued(cls, machine: Mapping[str, Any], path: Path | None) -> Report:
        """What the file holds already, if there is one. Unlike where it was measured on something else."""
        report = cls(machine, path)
        if path is None or not path.exists():
            return report
        held = json.loads(path.read_text(encoding="utf-8"))
        for name in SAME:
            before, now = held["machine"].get(name), report.machine.get(name)
            if before != now:
                raise Unlike(f"{path} was measured with {name} {before}, not {now}: give another file")
        report.machine = held["machine"]
        report.details, report.arms = held["details"], held["arms"]
        return report

    @property
    def figures(self) -> dict[str, float]:
        """The figures that the arms measured so far give."""
        found = {name: self._figure(name) for name in FIGURES}
        return {name: value for name, value in found.items() if value is not None}

    def keep(self) -> None:
        """Writes all of it down, where it is to be kept."""
        if (path := self._path) is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": self.machine, "figures": self.figures, "details": self.details, "arms": self.arms}
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def _figure(self, name: str) -> float | None:
        if name == "ingest_vs_vllm":
            ours, theirs = self._detail("ingest", "fps"), self.arms.get("vllm", {}).get("ingest_fps")
            return round(ours / theirs, 3) if ours and theirs else None
        if name == "ttft_age_ratio":
            looks = self.details.get("age", {}).get("looks", [])
            return round(looks[-1]["first_token_ms"] / young_first_token_ms(looks), 4) if looks else None
        if name == "itl_under_load_ms" and (self._detail("loaded", "share") or 0) < _NEARLY:
            return None  # fewer pictures came in beside the answers than were to
        return self._detail(*_SOURCES[name])

    def _detail(self, arm: str, name: str) -> float | None:
        value = self.details.get(arm, {}).get(name)
        return None if value is None else float(value)


def young_first_token_ms(looks: Sequence[Mapping[str, float]]) -> float:
    """What the last look at an aging session is to be held against: a young one beside it, else the first look."""
    return looks[-1].get("young_first_token_ms", looks[0]["first_token_ms"])


_NEARLY = 0.84  # of the ceiling, where 0.85 are shown
_SOURCES = {
    "ingest_full_fps": ("ingest", "fps"),
    "ingest_fp8_fps": ("ingest_fp8", "fps"),
    "ingest_drop_fps": ("ingest_drop", "fps"),
    "live_sessions_full": ("live_full", "sessions"),
    "live_sessions_drop": ("live_drop", "sessions"),
    "frame_quiet_ms": ("quiet", "frame_ms"),
    "ttft_quiet_ms": ("gateway", "first_token_ms"),
    "decode32_ms": ("decode", "step32_ms"),
    "itl_under_load_ms": ("loaded", "between_p99_ms"),
}
