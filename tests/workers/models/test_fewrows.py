"""Products of few rows by a kernel of our own: near those in float64, always the same, and where they are asked for.

They run on a GPU, or anywhere in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.workers.interpreter import DEVICE, INTERPRETED, KIND, MARKS, TRITON
from workers.models.fusion import gated
from workers.models.layers import Linear, SwiGLU

pytestmark = MARKS

if TRITON:
    from workers import launches
    from workers.models import fewrows
    from workers.models.fewrows import Plan, product

    PLANS = [
        pytest.param(Plan(64, 64, 4, 3, 1, 0), id="one program"),
        pytest.param(Plan(64, 64, 4, 3, 7, 2), id="tiles in parts"),
        pytest.param(Plan(128, 64, 8, 3, 40, 100), id="more programs than blocks"),
        pytest.param(Plan(128, 128, 4, 2, 5, 1, bulk=True), id="by the copy engine"),
        pytest.param(Plan(64, 64, 4, 3, 5, 1, between=3, left=2), id="next tiles asked for, next kernels held back"),
        pytest.param(Plan(32, 128, 4, 2, 12, 2, left=1), id="a tile each, of few outputs"),
    ]
else:
    PLANS = []


SIZES = pytest.mark.parametrize(("count", "bias"), [(1, False), (16, False), (33, True), (64, True)])


@pytest.fixture(autouse=True, params=[False, True] if not INTERPRETED else [False], ids=lambda on: f"chained={on}")
def _chained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.manual_seed(0)
    monkeypatch.setattr(launches, "CHAINED", request.param)
    with torch.inference_mode():
        yield


def random(*sizes: int) -> Tensor:
    return torch.randn(*sizes).to(DEVICE, KIND)


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def exact(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = rows.double() @ weight.double().T
    return out if bias is None else out + bias.double()


@pytest.mark.parametrize("plan", PLANS)
@SIZES
def test_a_product_is_near_that_in_float64_and_always_the_same(plan: Plan, bias: bool, count: int) -> None:
    weight = random(384, 256) * torch.logspace(-2, 1, 384)[:, None].to(DEVICE, KIND)
    rows, more = random(count, 256), random(384) if bias else None
    arrived = torch.zeros(384 // fewrows.TILE, dtype=torch.int32, device=DEVICE)
    outs = [product(rows, weight, more, arrived, plan) for _ in range(3)]
    assert outs[0].shape == (count, 384)
    assert distance(outs[0], exact(rows, weight, more)) < (1e-6 if INTERPRETED else 1e-2)
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert not arrived.any()


@pytest.mark.parametrize("plan", PLANS)
@SIZES
def test_gates_and_ups_are_joined_as_if_they_had_been_written(plan: Plan, bias: bool, count: int) -> None:
    weight = random(768, 256) * torch.logspace(-3, 0, 768)[:, None].to(DEVICE, KIND)
    rows, more = random(count, 256), random(768) if bias else None
    arrived = torch.zeros(768 // fewrows.TILE, dtype=torch.int32, device=DEVICE)
    outs = [product(rows, weight, more, arrived, plan, gated=True) for _ in range(3)]
    apart = gated(product(rows, weight, more, arrived, plan))
    assert outs[0].shape == (count, 384)
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert distance(outs[0], apart.double()) < (1e-6 if INTERPRETED else 1e-2)
    if plan.programs == 1 and not INTERPRETED:  # nothing is summed up in another order
        assert torch.equal(outs[0], apart)
    gate, up = exact(rows, weight, more).chunk(2, dim=-1)
    assert distance(outs[0], gate * gate.sigmoid() * up) < (1e-6 if INTERPRETED else 1e-2)
    assert not arrived.any()


@pytest.mark.skipif(INTERPRETED, reason="NumPy sums in another order for other numbers of rows")
def test_rows_are_the_same_whatever_others_there_are() -> None:
    weight, rows, plan = random(256, 256), random(64, 256), Plan(64, 64, 4, 3, 7, 2)
    arrived = torch.zeros(4, dtype=torch.int32, device=DEVICE)
    every, few = (product(part.contiguous(), weight, None, arrived, plan) for part in (rows, rows[:5]))
    assert torch.equal(every[:5], few)


@pytest.mark.skipif(INTERPRETED, reason="graphs are of a GPU")
def test_a_chain_of_layers_in_a_graph_gives_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Linear(512, 512, bias=bool(number % 2)).to(DEVICE, KIND) for number in range(6)]
    rows = random(17, 512)

    def chain() -> Tensor:
        x = rows
        for layer in layers:
            x = layer(x)
        return x

    expected = chain()
    monkeypatch.setattr(fewrows, "PLANS", {(512, 512): (Plan(64, 64, 4, 3, 50, 2),)})
    eager = chain()
    assert 0 < distance(eager, expected.double()) < 2e-2
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = chain()
    for _ in range(20):
        out.zero_()
        graph.replay()
        assert torch.equal(out, eager)


@pytest.mark.skipif(INTERPRETED, reason="layers of a CPU take torch's products")
@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_layer_gives_the_same_joined_or_apart(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = SwiGLU(512, 768, bias=bias).to(DEVICE, KIND), random(2, 17, 512)
    monkeypatch.setattr(fewrows, "PLANS", {(1536, 512): (Plan(64, 64, 4, 3, 50, 2),)})
    apart = layer(x)
    asked: list[bool] = []

    def counted(*args: object, gated: bool) -> Tensor:
        asked.append(gated)
        return product(*args, gated=gated)  # type: ignore[arg-type]

    monkeypatch.setattr(fewrows, "product", counted)
    monkeypatch.setattr(fewrows, "GATED", {(1536, 512): (Plan(64, 64, 4, 3, 50, 2),)})
    joined = layer(x)
    assert asked == [True]
    assert joined.shape == (2, 17, 512)
    torch.testing.assert_close(joined, apart, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("rows", "inputs", "which"),
    [(1, 256, 0), (16, 256, 0), (17, 256, 1), (64, 256, 1), (65, 256, None), (8, 128, None), (0, 256, None)],
)
def test_a_product_is_planned_for_few_rows_of_known_matrices(
    rows: int, inputs: int, which: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = (Plan(64, 64, 4, 3, 7, 2, rows=16), Plan(64, 64, 4, 3, 5, 2))
    monkeypatch.setattr(fewrows, "PLANS", {(192, 256): plans})
    monkeypatch.setattr(fewrows, "GATED", {})
    x, weight = torch.ones(rows, inputs, dtype=torch.bfloat16), torch.ones(192, inputs, dtype=torch.bfloat16)
    assert fewrows.planned(x, weight) == (None if which is None else plans[which])
    assert fewrows.planned(x.float(), weight.float()) is None
    assert fewrows.planned(x, weight, gated=True) is None
    assert plans[0].fits(weight)
    assert not plans[0].fits(weight[:100])
