"""How fast a GPU reads the 7B shape's matrices for few rows, by cuBLAS and by a kernel of our own, and whole steps.

    python -m bench.products [--json PATH]

Plans (`workers.models.fewrows.Plan`) are compiled, and proved against float64, by processes of their own; then each is
timed in graphs over all layers' matrices, and the best with other numbers of programs and of bytes asked for early.
With the fastest for each matrix the decoder's steps are timed, without attention and with it. Figures are microseconds
a matrix (for steps: a layer) and TB/s of weights; "chained" kernels may start before the one in front has ended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from bench.attention import ROOM, planned, sequences, unturned
from bench.machine import machine
from bench.random_model import QWEN25VL_7B, random_checkpoint
from bench.timings import timed
from workers import launches
from workers.attention.flashinfer import FlashInferAttention
from workers.core import KVStore
from workers.models import fewrows
from workers.models.capture import Captured
from workers.models.decoder import Attend, Decoder
from workers.models.fewrows import Plan
from workers.models.layers import Linear

TEXT = QWEN25VL_7B.text
ROWS = (32, 64, 16)
STEPS = (32, 64)  # answers at a time
COMPILERS = 14
PROCESSORS, SHARED_BYTES, MOST_ON_ONE = 132, 220 << 10, 4
EARLY = (0, 64 << 10, 128 << 10, 256 << 10)  # bytes a processor
BEST = 2  # plans tried with other numbers
HEADS = 4  # times that the head is read in a graph
PLANES = 4  # layers of a memory that no cache holds
WAYS = (  # by our kernel; chained
    ("cuBLAS", False, False),
    ("cuBLAS, chained", False, True),
    ("ours", True, False),
    ("ours, chained", True, True),
)
TILES = (  # outputs, inputs, warps, stages
    (64, 128, 4, 4), (64, 128, 4, 6), (64, 256, 4, 3), (128, 64, 4, 4), (128, 64, 4, 6), (128, 64, 8, 6),
    (128, 128, 4, 3), (128, 128, 8, 3), (128, 128, 8, 4), (256, 64, 8, 3), (256, 64, 8, 4),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proof:
    """What a plan's products of so many rows are off by, or why there are none."""

    plan: Plan
    rows: int
    bias: bool
    error: float | None
    why: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.products", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures and the fastest plans")
    wanted = parser.parse_args()
    proofs = list(proved())
    torch.manual_seed(0)
    told: dict[str, float] = {}
    with torch.inference_mode():
        decoder = random_checkpoint("cuda", torch.bfloat16).model.decoder
        best = {name: fastest(name, layers, proofs, told) for name, layers in matrices(decoder).items()}
        steps(decoder, best, told)
    if wanted.json:
        plans = {name: {rows: asdict(plan) for rows, plan in mine.items()} for name, mine in best.items()}
        report = {"machine": machine("cuda", torch.get_num_threads()), "us": told, "plans": plans}
        wanted.json.write_text(json.dumps(report) + "\n")


def proved() -> Iterator[Proof]:
    """Every plan that fits the processors, compiled for each number of rows; afterwards Triton's cache has them all."""
    wanted = [
        (Plan(*tile, programs=7, early=1, bulk=bulk), rows, bias)
        for rows in ROWS
        for tile in TILES
        for bulk in (False, True)
        for bias in (False, True)
        if on_one(Plan(*tile, 1, 0), rows)
    ]
    with ProcessPoolExecutor(COMPILERS, get_context("spawn")) as pool:
        for proof in pool.map(prove, wanted):
            if proof.error is None or proof.error > 1e-2:
                print(f"left out: {proof}", flush=True)
            else:
                yield proof


def prove(wanted: tuple[Plan, int, bool]) -> Proof:
    """In a process of its own: a small product, run twice, beside float64."""
    plan, rows, bias = wanted
    torch.manual_seed(0)
    weight = torch.randn(3 * plan.outputs, 8 * plan.inputs, device="cuda", dtype=torch.bfloat16)
    x, more = random(rows, 8 * plan.inputs), random(3 * plan.outputs) if bias else None
    arrived = torch.zeros(len(weight) // fewrows.TILE, dtype=torch.int32, device="cuda")
    expected = x.double() @ weight.double().T + (0 if more is None else more.double())
    try:
        with torch.inference_mode(), patch.object(launches, "CHAINED", True):
            outs = [fewrows.product(x, weight, more, arrived, plan).double() for _ in range(2)]
    except Exception as broken:  # whatever a compiler may say of one plan, the others are still to be measured
        return Proof(plan, rows, bias, None, repr(broken)[:300])
    if arrived.any() or not torch.equal(*outs):
        return Proof(plan, rows, bias, None, "another result the second time")
    return Proof(plan, rows, bias, float((outs[0] - expected).norm() / expected.norm()))


def matrices(decoder: Decoder) -> Mapping[str, Sequence[Linear]]:
    """Each kind of matrix, in every layer."""
    layers: Sequence[Any] = list(decoder.layers)
    return {
        "qkv_proj": [layer.self_attn.qkv_proj for layer in layers],
        "o_proj": [layer.self_attn.o_proj for layer in layers],
        "gate_up_proj": [layer.mlp.gate_up_proj for layer in layers],
        "down_proj": [layer.mlp.down_proj for layer in layers],
        "head": [cast(Linear, decoder.lm_head)] * HEADS,
    }


def fastest(name: str, layers: Sequence[Linear], proofs: Sequence[Proof], told: dict[str, float]) -> dict[int, Plan]:
    """The best plan for each number of rows."""
    found = {}
    for rows in ROWS:
        x = random(rows, layers[0].in_features)
        tell(told, f"{name} {rows} cuBLAS", timed([partial(layer, x) for layer in layers]), layers)
        biased = layers[0].bias is not None
        fit = [proof.plan for proof in proofs if proof.rows == rows and proof.bias == biased]
        plans = [spread(plan, rows, on_one(plan, rows), EARLY[1]) for plan in fit if plan.fits(layers[0].weight)]
        taken = {plan: measured(layers, x, plan) for plan in plans}
        for plan in sorted(taken, key=taken.__getitem__)[:BEST]:
            others = {spread(plan, rows, count, early) for count in range(1, MOST_ON_ONE + 1) for early in EARLY}
            taken |= {other: measured(layers, x, other) for other in others - taken.keys()}
        order = sorted(taken, key=taken.__getitem__)
        for plan in order:
            told[f"{name} {rows} {plan}"] = taken[plan]
        found[rows] = order[0]
        tell(told, f"{name} {rows} ours", taken[order[0]], layers)
        alone = min((plan for plan in order if not plan.early), key=taken.__getitem__)
        tell(told, f"{name} {rows} ours, nothing asked for early", taken[alone], layers)
        for plan in order[:3]:
            print(f"    {taken[plan]:8.1f} {plan}", flush=True)
    return found


def on_one(plan: Plan, rows: int) -> int:
    """How many programs one processor has room for."""
    size = 2 * plan.stages * plan.inputs * (plan.outputs + rows)
    return min(SHARED_BYTES // size, MOST_ON_ONE)


def spread(plan: Plan, rows: int, count: int, early: int) -> Plan:
    """With so many programs and so many bytes asked for early on each processor."""
    units = early // (min(count, max(on_one(plan, rows), 1)) * 2 * plan.outputs * plan.inputs)
    return replace(plan, programs=PROCESSORS * count, early=units)


def measured(layers: Sequence[Linear], x: Tensor, plan: Plan) -> float:
    """Microseconds a product, in a chain of them."""
    arrived = torch.zeros(layers[0].out_features // fewrows.TILE, dtype=torch.int32, device="cuda")
    with patch.object(launches, "CHAINED", True):
        return timed([partial(fewrows.product, x, each.weight, each.bias, arrived, plan) for each in layers])


def steps(decoder: Decoder, best: Mapping[str, Mapping[int, Plan]], told: dict[str, float]) -> None:
    """The decoder and its head, launched each way, without attention and with 4,368 keys a row."""
    layers = {name: mine[0] for name, mine in matrices(decoder).items()}
    attention = memory()
    for rows in STEPS:
        ours = {(len(mine.weight), mine.in_features): best[name][rows] for name, mine in layers.items()}
        fixed, embeds = planned(attention, sequences(rows, 1)), random(rows, TEXT.hidden_size)
        for attended, attend in (("no attention", _unattended), ("attention", partial(_over, fixed))):
            logits = {}
            for title, plans, chained in WAYS:
                call = partial(step, decoder, embeds, attend)
                with patch.object(fewrows, "PLANS", ours if plans else {}), patch.object(launches, "CHAINED", chained):
                    taken, logits[title] = timed([call]), last(call)
                told[f"step of {rows}, {attended}, {title}"] = taken
                print(f"step of {rows}, {attended}, {title:<18}{taken:>9.1f}{taken / TEXT.layers:>9.1f}", flush=True)
            exact = logits["cuBLAS"].double()
            off = float((logits["ours"].double() - exact).norm() / exact.norm())
            alike = torch.equal(logits["ours"], logits["ours, chained"])
            told |= {f"logits of {rows}, {attended}, off by": off, f"logits of {rows}, {attended}, alike": alike}
            print(
                f"logits of {rows}, {attended}: off by {off:.4f}, {'' if alike else 'NOT '}alike if chained", flush=True
            )


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


def tell(told: dict[str, float], name: str, taken: float, layers: Sequence[Linear]) -> None:
    told[name] = taken
    print(f"{name:<52}{taken:>9.1f}{layers[0].weight.nbytes / taken / 1e6:>7.2f}", flush=True)


def random(*sizes: int) -> Tensor:
    return torch.randn(*sizes, device="cuda", dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
