import re
from pathlib import Path

import pytest

from protocol.messages import ModelCard, WorkerCard
from protocol.placement import WorkerState
from server.metrics import Metrics

pytestmark = pytest.mark.unit

MODEL = ModelCard(
    name="mini",
    frame_width=224,
    frame_height=224,
    tokens_per_frame=64,
    pictures_per_grid=1,
    max_fps=2.0,
    default_budget_tokens=1024,
    max_budget_tokens=4096,
    bytes_per_token=1024,
    policies=["window"],
)


def worker(name: str, *, reserved: int, draining: bool = False) -> WorkerState:
    card = WorkerCard(worker_id=name, model=MODEL, capacity_tokens=4096, max_sessions=8, draining=draining)
    return WorkerState(card=card, reserved_tokens=reserved)


def test_workers_are_summed_by_model_and_draining_ones_left_out() -> None:
    metrics = Metrics()
    metrics.report_workers(
        [worker("a", reserved=1000), worker("b", reserved=24), worker("c", reserved=9, draining=True)]
    )
    found = {
        name: metrics.registry.get_sample_value(f"longlook_{name}", {"model": "mini"})
        for name in ("workers", "capacity_tokens", "reserved_tokens")
    }
    assert found == {"workers": 2, "capacity_tokens": 8192, "reserved_tokens": 1024}


def test_workers_that_are_gone_are_reported_no_more() -> None:
    metrics = Metrics()
    metrics.report_workers([worker("a", reserved=1000)])
    metrics.report_workers([])
    assert metrics.registry.get_sample_value("longlook_workers", {"model": "mini"}) is None


def test_every_metric_is_documented_and_no_other() -> None:
    table = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    counted = {"counter": "_total"}
    known = {family.name + counted.get(family.type, "") for family in Metrics().registry.collect()}
    assert set(re.findall(r"`(longlook_\w+)(?:\{[\w,]+\})?`", table)) == known
