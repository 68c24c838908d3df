"""How fast a GPU reads the 7B shape's matrices for few rows, by cuBLAS and by a kernel of our own, and whole steps.

    python -m bench.products [--json PATH]

Plans (`workers.models.fewrows.Plan`) are compiled, and proved against float64, by processes of their own; then each is
timed in graphs over all layers' matrices, and the best with other numbers of programs, of bytes asked for early and
while a tile is completed, and with other times for the next kernel to start. Gates and ups are read twice: as a product
whose halves SwiGLU joins, and joined by the product itself. With the fastest for each matrix the decoder's steps are
timed, without attention and with it. Figures are microseconds a matrix (for steps: a step, a layer) and TB/s of
weights; "chained" kernels may start before the one in front has ended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from bench.attention import ROOM, planned, sequences, unturned
from bench.machine import machine
from bench.proofs import off_by, proved
from bench.random_model import QWEN25VL_7B, random_checkpoint
from bench.timings import timed
from workers import launches
from workers.attention.flashinfer import FlashInferAttention
from workers.core import KVStore
from workers.models import fewrows
from workers.models.capture import Captured
from workers.models.decoder import Attend, Decoder
from workers.models.fewrows import Plan, Plans
from workers.models.fusion import gated
from workers.models.layers import Linear

TEXT = QWEN25VL_7B.text
ROWS = (32, 64, 16)
PROCESSORS, SHARED_BYTES, MOST_ON_ONE = 132, 220 << 10, 2
FEWEST = 50  # programs that can keep the memory busy
EARLY = (64 << 10, 0, 128 << 10)  # bytes a program
AT_ONCE = 1 << 20  # blocks that every program has left when it begins
BEST = 3  # plans tried with other numbers
HEADS = 4  # times that the head is read in a graph
PLANES = 4  # layers of a memory that no cache holds
TILES = (  # outputs, inputs, warps, stages
    (32, 128, 4, 6), (64, 128, 4, 3), (64, 128, 4, 4), (64, 128, 4, 6), (64, 256, 4, 3),
    (128, 128, 4, 3), (128, 128, 8, 3), (128, 128, 8, 4),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """How a step is launched: by which plans, changed how, gates and ups joined or not, chained or not."""

    title: str
    ours: bool = True
    joined: bool = True
    chained: bool = True
    changed: Mapping[str, Any] = field(default_factory=dict)


WAYS = (
    Way("cuBLAS", ours=False, joined=False, chained=False),
    Way("cuBLAS, chained", ours=False, joined=False),
    Way("ours, gates apart", joined=False),
    Way("ours, not chained", chained=False),
    Way("ours"),
    Way("ours, next at once", changed={"left": AT_ONCE}),
    Way("ours, next held back", changed={"left": 5}),
    Way("ours, nothing between", changed={"between": 0}),
    Way("ours, 4 between", changed={"between": 4}),
)


@dataclass(frozen=True, slots=True)
class Matrices:
    """One kind of matrix, in every layer, and whether its halves are joined."""

    layers: Sequence[Linear]
    joined: bool = False

    def told(self, taken: float) -> str:
        return f"{taken:>9.1f}{self.layers[0].weight.nbytes / taken / 1e6:>7.2f}"

    def calls(self, x: Tensor, plan: Plan) -> list[Callable[[], Tensor]]:
        """A product with each."""
        arrived = torch.zeros(self.layers[0].out_features // fewrows.TILE, dtype=torch.int32, device="cuda")
        joined = partial(fewrows.product, arrived=arrived, plan=plan, gated=self.joined)
        return [partial(joined, x, each.weight, each.bias) for each in self.layers]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a plan's products of so many rows are off by, or why there are none."""

    plan: Plan
    rows: int
    bias: bool
    joined: bool
    error: float | None
    why: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.products", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures and the fastest plans")
    wanted = parser.parse_args()
    proofs = list(proofs_of_all())
    torch.manual_seed(0)
    told: dict[str, float] = {}
    with torch.inference_mode():
        decoder = random_checkpoint("cuda", torch.bfloat16).model.decoder
        kinds = matrices(decoder)
        best = {name: fastest(name, kind, proofs, told) for name, kind in kinds.items()}
        joining(kinds["gate_up_proj"], best["gate_up_proj"], told)
        steps(decoder, best, told)
    if wanted.json:
        plans = {name: {rows: asdict(plan) for rows, plan in mine.items()} for name, mine in best.items()}
        report = {"machine": machine("cuda", torch.get_num_threads()), "us": told, "plans": plans}
        wanted.json.write_text(json.dumps(report) + "\n")


def proofs_of_all() -> Iterator[Proof]:
    """Every plan that fits the processors, compiled for each number of rows; afterwards Triton's cache has them all."""
    wanted = [
        (Plan(*tile, programs=7, early=1, between=2, left=3, bulk=bulk), rows, bias, joined)
        for rows in ROWS
        for tile in TILES
        for bulk, bias, joined in (
            (False, False, False), (False, True, False), (True, False, False), (True, True, False), (False, False, True)
        )
        if on_one(Plan(*tile, 1, 0), rows)
    ]  # fmt: skip
    return proved(prove, wanted)


def prove(wanted: tuple[Plan, int, bool, bool]) -> Proof:
    """In a process of its own: a small product, run twice, beside float64."""
    plan, rows, bias, joined = wanted
    torch.manual_seed(0)
    weight = torch.randn(4 * plan.outputs, 8 * plan.inputs, device="cuda", dtype=torch.bfloat16) / 32
    x, more = random(rows, 8 * plan.inputs), random(4 * plan.outputs) if bias else None
    arrived = torch.zeros(len(weight) // fewrows.TILE, dtype=torch.int32, device="cuda")
    expected = x.double() @ weight.double().T + (0 if more is None else more.double())
    expected = gated(expected) if joined else expected

    def run() -> Tensor:
        out = fewrows.product(x, weight, more, arrived, plan, gated=joined)
        if arrived.any():
            raise RuntimeError("its counters are not zeros again")
        return out

    with patch.object(launches, "CHAINED", True):
        return Proof(*wanted, *off_by(run, lambda: expected))


def matrices(decoder: Decoder) -> Mapping[str, Matrices]:
    """Each kind of matrix."""
    layers: Sequence[Any] = list(decoder.layers)
    gates = [layer.mlp.gate_up_proj for layer in layers]
    return {
        "qkv_proj": Matrices([layer.self_attn.qkv_proj for layer in layers]),
        "o_proj": Matrices([layer.self_attn.o_proj for layer in layers]),
        "gate_up_proj": Matrices(gates),
        "gates joined": Matrices(gates, joined=True),
        "down_proj": Matrices([layer.mlp.down_proj for layer in layers]),
        "head": Matrices([cast(Linear, decoder.lm_head)] * HEADS),
    }


def fastest(name: str, kind: Matrices, proofs: Sequence[Proof], told: dict[str, float]) -> dict[int, Plan]:
    """The best plan for each number of rows."""
    found, one = {}, kind.layers[0]
    shown = (one.bias is not None, kind.joined)
    for rows in ROWS:
        x = random(rows, one.in_features)
        if not kind.joined:
            tell(told, f"{name} {rows} cuBLAS", timed([partial(layer, x) for layer in kind.layers]), kind)
        fit = [proof.plan for proof in proofs if proof.rows == rows and (proof.bias, proof.joined) == shown]
        plans = [first(plan) for plan in fit if plan.fits(one.weight)]
        taken = {plan: measured(kind, x, plan) for plan in plans}
        for plan in sorted(taken, key=taken.__getitem__)[:BEST]:
            climb(kind, x, plan, taken)
        order = sorted(taken, key=taken.__getitem__)
        for plan in order:
            told[f"{name} {rows} {plan}"] = taken[plan]
        found[rows] = order[0]
        tell(told, f"{name} {rows} ours", taken[order[0]], kind)
        for plan in order[:4]:
            print(f"    {taken[plan]:8.1f} {plan}", flush=True)
    return found


def on_one(plan: Plan, rows: int) -> int:
    """How many programs one processor has room for."""
    size = 2 * plan.stages * plan.inputs * (plan.outputs + rows)
    return min(SHARED_BYTES // size, MOST_ON_ONE)


def first(plan: Plan) -> Plan:
    """A plan as it is tried first: one program a processor, the next kernel held back until the last blocks."""
    early = EARLY[0] // (2 * plan.outputs * plan.inputs)
    return replace(plan, programs=PROCESSORS, early=early, between=0, left=plan.stages)


def climb(kind: Matrices, x: Tensor, plan: Plan, taken: dict[Plan, float]) -> None:
    """Changes a plan's numbers one after the other and keeps what is faster; all that were tried go into `taken`."""
    block, tiles = 2 * plan.outputs * plan.inputs, kind.layers[0].out_features // plan.outputs
    most = PROCESSORS * on_one(plan, len(x))
    programs = {count for count in (PROCESSORS, 2 * PROCESSORS, tiles, 2 * tiles) if FEWEST <= count <= most}
    choices: dict[str, Collection[int]] = {
        "programs": programs,
        "left": (2 * plan.stages, AT_ONCE),
        "early": [size // block for size in EARLY],
        "between": [size // block for size in EARLY],
    }
    for name, values in choices.items():
        others = [replace(plan, **cast(Mapping[str, Any], {name: value})) for value in values]
        taken |= {other: measured(kind, x, other) for other in others if other not in taken}
        plan = min((plan, *others), key=taken.__getitem__)


def measured(kind: Matrices, x: Tensor, plan: Plan) -> float:
    """Microseconds a product, in a chain of them."""
    with patch.object(launches, "CHAINED", True):
        return timed(kind.calls(x, plan))


def joining(kind: Matrices, best: Mapping[int, Plan], told: dict[str, float]) -> None:
    """Products of gates and ups whose halves a kernel of its own joins."""
    for rows, plan in best.items():
        x = random(rows, kind.layers[0].in_features)
        with patch.object(launches, "CHAINED", True):
            ours: list[Callable[[], Tensor]] = kind.calls(x, plan)
            theirs: list[Callable[[], Tensor]] = [partial(layer, x) for layer in kind.layers]
            for title, calls in (("ours", ours), ("cuBLAS", theirs)):
                taken = timed([partial(_joined, call) for call in calls])
                tell(told, f"gate_up_proj {rows} {title}, then SwiGLU", taken, kind)


def _joined(call: Callable[[], Tensor]) -> Tensor:
    return gated(call())


def steps(decoder: Decoder, best: Mapping[str, Mapping[int, Plan]], told: dict[str, float]) -> None:
    """The decoder and its head, launched each way, without attention and with 4,368 keys a row."""
    attention = memory()
    for rows in ROWS:
        fixed, embeds = planned(attention, sequences(rows, 1)), random(rows, TEXT.hidden_size)
        for attended, attend in (("no attention", _unattended), ("attention", partial(_over, fixed))):
            logits, call = {}, partial(step, decoder, embeds, attend)
            for way in WAYS:
                plans, joined = plans_of(way, decoder, best, rows)
                with (
                    patch.object(fewrows, "PLANS", plans),
                    patch.object(fewrows, "GATED", joined),
                    patch.object(launches, "CHAINED", way.chained),
                ):
                    taken = timed([call])
                    if not way.changed:
                        logits[way.title] = last(call)
                told[f"step of {rows}, {attended}, {way.title}"] = taken
                print(
                    f"step of {rows}, {attended}, {way.title:<22}{taken:>9.1f}{taken / TEXT.layers:>9.1f}", flush=True
                )
            exact = logits["cuBLAS"].double()
            off = float((logits["ours"].double() - exact).norm() / exact.norm())
            alike = torch.equal(logits["ours"], logits["ours, not chained"])
            told |= {f"logits of {rows}, {attended}, off by": off, f"logits of {rows}, {attended}, alike": alike}
            print(
                f"logits of {rows}, {attended}: off by {off:.4f}, {'' if alike else 'NOT '}alike if chained", flush=True
            )


def plans_of(way: Way, decoder: Decoder, best: Mapping[str, Mapping[int, Plan]], rows: int) -> tuple[Plans, Plans]:
    """Those of products, and of gates and ups that are joined, as `fewrows` has them."""
    products: dict[tuple[int, int], tuple[Plan, ...]] = {}
    joined: dict[tuple[int, int], tuple[Plan, ...]] = {}
    for name, kind in matrices(decoder).items():
        one, plan = kind.layers[0], replace(best[name][rows], **way.changed)
        (joined if kind.joined else products)[one.out_features, one.in_features] = (plan,)
    return products if way.ours else {}, joined if way.joined else {}


def last(call: Callable[[], Tensor]) -> Tensor:
    """What a graph gives when it is replayed without a pause."""
    graph = Captured(call, torch.device("cuda"))
    for _ in range(20):
        out = graph.replay()
    return out.clone()


def step(decoder: Decoder, embeds: Tensor, attend: Attend) -> Tensor:
    """Logits of one token of each sequence."""
    rotation = decoder.rope.rotation(torch.arange(len(embeds), device="cuda").expand(3, -1))
    return decoder.logits(decoder(embeds, rotation, attend))


def memory() -> FlashInferAttention:
    """Keys and values of as many sequences as there are rows at most."""
    size = (PLANES, 1, max(ROWS) * ROOM, TEXT.kv_heads, TEXT.head_dim)
    keys, values = (random(*size) for _ in range(2))
    return FlashInferAttention(KVStore(keys, values, torch.zeros(size[:3], device="cuda")), unturned, TEXT.heads)


def _unattended(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q


def _over(fixed: Attend, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return fixed(layer % PLANES, q, k, v)


def tell(told: dict[str, float], name: str, taken: float, kind: Matrices) -> None:
    told[name] = taken
    print(f"{name:<52}{kind.told(taken)}", flush=True)


def random(*sizes: int) -> Tensor:
    return torch.randn(*sizes, device="cuda", dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
