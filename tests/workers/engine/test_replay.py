"""A recorded step plan, done again: the same tokens and the same pages, as often as it is done, in graphs or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.workers.engine.judged import CUDA, Judged, mini, paged, rig, shaped
from tests.workers.engine.rig import Rig
from workers.core import Attend, Attention, Query
from workers.engine.batch import Runner, Work
from workers.engine.recorder import Compaction, Pass, Recorder, Run
from workers.memory.pool import NO_TOKEN

pytestmark = pytest.mark.parity

NAMES = ("a", "b")
CPU = ("cpu", 2)
# Head groups: single tokens over one have a kernel of their own on Hopper.
PLACES = [CPU, *(pytest.param(("cuda", groups), marks=CUDA) for groups in (2, 1))]
Memory = Mapping[str, NDArray[np.float32]]


class Uncaptured:
    """An attention that is never part of a graph."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def plan(self, queries: tuple[Query, ...]) -> Attend:
        return self._attention.plan(queries)


@pytest.fixture(scope="module", params=["mini", "shaped"])
def model(request: pytest.FixtureRequest, tiny_qwen25vl: Callable[..., Any]) -> Judged:
    return mini() if request.param == "mini" else shaped(tiny_qwen25vl)


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: "{}, {} groups".format(*place))
def recorded(request: pytest.FixtureRequest, model: Judged) -> tuple[Rig, Recorder]:
    """Two full sessions with questions, greedy and not, beside their streams; on record from the middle on."""
    recorder, (device, groups) = Recorder(), request.param
    half = torch.bfloat16 if device == "cuda" else torch.float32
    r = rig(model.opened(device, half), groups=groups, watch=recorder)
    for name in NAMES:
        r.open(name, policy="infinipot", budget_tokens=model.budget, complete=True)
    half_full = model.frames // 2
    for n in range(model.frames):
        if n == half_full:
            r.run(check=False)
            recorder.begin(r.engine.pool.store)
        for place, name in enumerate(NAMES):
            r.push(n * 1000, name, seed=10 * n + place)
        if n >= half_full and n % 4 == 0:
            r.ask(f"greedy {n}", NAMES[n % 2], at_ms=n * 1000, max_tokens=8, mode="live")
            r.ask(f"drawn {n}", NAMES[n // 2 % 2], max_tokens=8, temperature=0.8, top_p=0.9, seed=n)
        r.run(steps=3, check=False)
    r.run(check=False)
    return r, recorder


def memory(r: Rig) -> Memory:
    """Everything in the pool that is some token's."""
    pool = r.engine.pool
    used = pool.token_ids != NO_TOKEN
    planes = {"keys": pool.store.keys, "values": pool.store.values, "bias": pool.store.bias}
    return {name: plane.float().cpu().numpy()[used] for name, plane in planes.items()}


class Rows:
    """Runs works and keeps the logits of every row that somebody wanted."""

    def __init__(self, run: Run) -> None:
        self.logits: list[Tensor] = []
        self._run = run

    def __call__(self, works: Sequence[Work]) -> Tensor:
        logits = self._run(works)
        self.logits.append(logits.float().cpu())
        return logits


def again(r: Rig, recorder: Recorder) -> list[list[int]]:
    device = r.engine.device
    return recorder.replay(device.run, device.gather, device.pool.store)


def test_a_plan_done_again_gives_the_same_tokens_and_pages(recorded: tuple[Rig, Recorder]) -> None:
    r, recorder = recorded
    passes = [each for each in recorder.plan if isinstance(each, Pass)]
    drawn, pages = [each.drawn.read() for each in passes if each.drawn], memory(r)
    assert any(isinstance(each, Compaction) for each in recorder.plan), "nothing was compacted: record for longer"
    assert any(work.following for each in passes for work in each.works), "the host was never behind"
    assert any(not sampler.greedy for each in passes for sampler in each.samplers)
    for _ in range(20 if r.engine.pool.store.keys.is_cuda else 2):
        for poisoned in (r.engine.pool.store.keys, r.engine.pool.store.values):
            poisoned.zero_()
        assert again(r, recorder) == drawn
        for name, plane in memory(r).items():
            np.testing.assert_array_equal(plane, pages[name], err_msg=name)


def test_a_plan_gives_the_same_without_graphs(recorded: tuple[Rig, Recorder]) -> None:
    """On a GPU kernels differ with it, and what they round: the tokens are the same wherever that does not decide."""
    r, recorder = recorded
    device, store = r.engine.device, r.engine.pool.store
    assert device.graphs is not None, "there is nothing to compare"
    attention = Uncaptured(paged(r.checkpoint.config.text.heads)(store, device.turn))
    plain = Runner(r.checkpoint.model.decoder, attention)
    ways = []
    for run in (device.run, plain.run):
        rows = Rows(run)
        recorder.replay(rows, device.gather, store, forced=True)
        ways.append((torch.cat(rows.logits), memory(r)))
    (ours, pages), (theirs, expected) = ways
    off = 0.05 if store.keys.is_cuda else 1e-4
    assert (ours - theirs).abs().max() < off * theirs.abs().max()
    best = theirs.topk(2).values
    decided = best[:, 0] - best[:, 1] > 2 * off * theirs.abs().max()
    assert decided.any()
    assert torch.equal(ours.argmax(-1)[decided], theirs.argmax(-1)[decided])
    for name, plane in pages.items():
        np.testing.assert_allclose(plane, expected[name], atol=off, rtol=off, err_msg=name)


@pytest.mark.parametrize("recorded", [CPU], indirect=True)
def test_another_plan_gives_other_pages(recorded: tuple[Rig, Recorder]) -> None:
    """One token of one row a position further: the comparison above would notice."""
    r, recorder = recorded
    again(r, recorder)
    pages, place = memory(r), max(n for n, each in enumerate(recorder.plan) if isinstance(each, Pass))
    changed = Recorder()
    recorder.rewind(r.engine.pool.store)
    changed.begin(r.engine.pool.store)
    last = recorder.plan[place]
    assert isinstance(last, Pass)
    works = (replace(last.works[0], positions=last.works[0].positions + 1), *last.works[1:])
    changed.plan = [*recorder.plan[:place], replace(last, works=works), *recorder.plan[place + 1 :]]
    again(r, changed)
    assert any((plane != pages[name]).any() for name, plane in memory(r).items())


@pytest.mark.parametrize("recorded", [CPU], indirect=True)
def test_a_record_can_be_read(recorded: tuple[Rig, Recorder]) -> None:
    r, recorder = recorded
    told = json.loads(json.dumps(recorder.told()))
    rows = [row for each in told if "rows" in each for row in each["rows"]]
    assert sum(row["pictured"] > 0 for row in rows) == len(NAMES) * (r.pushed // len(NAMES) // 2)
    assert all(len(row["positions"]) == 3 and len(row["slots"]) == len(row["tokens"]) for row in rows)
    assert {-1} < {token for row in rows for token in row["tokens"]}
    assert any(job["survivors"] < job["of"] for each in told for job in each.get("gathered", []))
