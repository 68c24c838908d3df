"""One file of a GPU's figures, measured in several calls, and the charts that are drawn of it."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.plot import charts, draw
from bench.report import FIGURES, Report, Unlike

pytestmark = pytest.mark.unit

MACHINE = {"commit": "c", "device": "cuda", "gpu": "g", "dtype": "d", "model": "m", "weights": "w", "date": "1"}
LOOKS = [
    {"age_s": 60, "first_token_ms": 20.0, "kv_bytes": 1 << 28},
    {"age_s": 600, "first_token_ms": 21.0, "kv_bytes": 1 << 28},
]


def whole() -> Report:
    report = Report(MACHINE)
    for arm in ("ingest", "ingest_fp8", "ingest_drop"):
        report.details[arm] = {"fps": 100.0, "keys": 4368}
    for arm in ("live_full", "live_drop"):
        report.details[arm] = {"sessions": 80}
    report.details |= {"quiet": {"frame_ms": 18.0}, "gateway": {"first_token_ms": 29.0}, "age": {"looks": LOOKS}}
    report.details |= {"decode": {"step32_ms": 8.0}, "loaded": {"between_p99_ms": 45.0, "share": 0.85}}
    session = [{"pictures": 10.0, "first_token_s": 0.1}, {"pictures": 60.0, "first_token_s": 0.2}]
    by_age = [{"pictures": 30, "picture_ms": 100.0}]
    report.arms["vllm"] = {"ingest_fps": 80.0, "session": session, "streaming_sessions": {"by_age": by_age}}
    return report


def test_figures_are_exactly_those_that_are_promised() -> None:
    figures = whole().figures
    assert tuple(figures) == FIGURES
    assert figures["ingest_vs_vllm"] == 1.25
    assert figures["ttft_age_ratio"] == 1.05


def test_gaps_between_tokens_count_only_beside_what_was_to_come_in() -> None:
    report = whole()
    report.details["loaded"]["share"] = 0.73
    assert "itl_under_load_ms" not in report.figures


def test_what_was_not_measured_is_left_out() -> None:
    report = Report(MACHINE)
    report.details["ingest"] = {"skipped": "no reason"}
    assert report.figures == {}


def test_a_second_call_adds_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    first = Report.continued(MACHINE, path)
    first.details["quiet"] = {"frame_ms": 18.0}
    first.keep()
    second = Report.continued({**MACHINE, "date": "2"}, path)
    second.details["decode"] = {"step32_ms": 8.0}
    second.keep()
    held = json.loads(path.read_text())
    assert held["figures"] == {"frame_quiet_ms": 18.0, "decode32_ms": 8.0}
    assert held["machine"]["date"] == "1"


@pytest.mark.parametrize("name", ["commit", "gpu", "dtype"])
def test_what_was_measured_of_something_else_is_not_mixed_in(tmp_path: Path, name: str) -> None:
    path = tmp_path / "engine.json"
    Report(MACHINE, path).keep()
    with pytest.raises(Unlike, match=name):
        Report.continued({**MACHINE, name: "other"}, path)


def test_charts_show_ours_beside_theirs(tmp_path: Path) -> None:
    paths = draw(whole(), tmp_path)
    assert [path.name for path in paths] == ["engine-first-token.svg", "engine-memory.svg"]
    lines = [len(ElementTree.parse(path).findall("{*}polyline")) for path in paths]  # noqa: S314  # our own file
    assert lines == [3, 2]


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert charts(Report(MACHINE)) == {}
    assert draw(Report(MACHINE), tmp_path) == []
