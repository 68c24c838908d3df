import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.placement import WorkerState
from server.metrics import Metrics
from tests.conformance.samples import make_card

pytestmark = pytest.mark.unit


def worker(name: str, *, reserved: int, draining: bool = False) -> WorkerState:
    card = replace(make_card(name), draining=draining)
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
