"""Policy `infinipot` in the engine: per-head selection under a budget, beside branches, pins and re-anchoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.engine.rig import Rig
from workers.core import Kind
from workers.engine.watch import Unmoved
from workers.memory.compaction import Gathering

pytestmark = pytest.mark.unit


def stream(r: Rig, frames: int, *names: str) -> None:
    for n in range(frames):
        for place, name in enumerate(names or ("s",)):
            r.push(n * 1000, name, seed=1000 * place + n)
        r.run()


def test_while_the_budget_is_not_reached_it_is_policy_full(each_rig: Callable[..., Rig]) -> None:
    answers, keys = [], []
    for policy, groups in (("full", 1), ("infinipot", 1), ("infinipot", 2)):
        r = each_rig(head_groups=groups)
        r.open(policy=policy, budget_tokens=1024)
        for n in range(20):
            r.push(n * 1000)
        r.ask(at_ms=19_000, max_tokens=8)
        r.run()
        answers.append(r.answer())
        keys.append(r.engine.sessions["s"].trunk.tokens)
    assert answers[0] == answers[1] == answers[2]
    assert len(set(keys)) == 1


def test_the_budget_holds_whatever_is_asked_meanwhile(each_rig: Callable[..., Rig]) -> None:
    """The books are balanced after every step, compactions included, with pins and live branches on top."""
    r = each_rig(head_groups=2, trained_length=256)
    r.open(policy="infinipot", budget_tokens=400)
    session = r.engine.sessions["s"]
    for n in range(150):
        r.push(n * 1000)
        if n % 7 == 3:
            r.ask(f"q{n}", at_ms=n * 1000, max_tokens=12, mode=["frozen", "live"][n % 2], remember=n % 3 == 0)
        r.run(steps=3)
        assert session.trunk.share.held * r.engine.pool.page_size <= 400
    r.run()
    assert set(r.outcomes()) == {"prefilled"}
    assert any(block.core for block in session.trunk.blocks)
    assert session.trunk.share.held == session.trunk.pages
    assert torch.isfinite(r.engine.pool.store.keys).all()


def test_each_head_keeps_its_own_tokens_and_knows_which(rig: Callable[..., Rig]) -> None:
    r = rig(head_groups=2)
    r.open(policy="infinipot", budget_tokens=400)
    stream(r, 60)
    trunk = r.engine.sessions["s"].trunk
    trunk.settle()
    cores = [block for block in trunk.blocks if block.core]
    ids = np.concatenate(
        [r.engine.pool.read_ids(r.engine.pool.slots_of(core.pages)[:, :, : core.tokens]) for core in cores], axis=-1
    )
    assert len({tuple(ids[plane].tolist()) for plane in np.ndindex(*ids.shape[:2])}) == ids.shape[0] * ids.shape[1]
    facts = trunk.facts.of(ids)
    assert (facts["grid"] >= 0).all()
    assert (np.diff(facts["time_ms"], axis=-1) >= 0).all()


def test_survivors_stand_where_their_facts_say(rig: Callable[..., Rig]) -> None:
    """In the first layer a key is its picture's, turned to its position: a token's keys agree in two sessions."""
    stored = []
    for budget in (400, 1600):
        r = rig(head_groups=2, trained_length=192)
        r.open(policy="infinipot", budget_tokens=budget)
        stream(r, 50)
        trunk = r.engine.sessions["s"].trunk
        trunk.settle()
        keys = {}
        for block in trunk.blocks:
            if block.kind == Kind.FRAME:
                slots = r.engine.pool.slots_of(block.pages)[0, 0, : block.tokens]
                facts = trunk.facts.of(r.engine.pool.token_ids[0, 1, slots])
                upright = trunk.turn_keys(
                    r.engine.pool.store.keys[0, 1, slots], torch.from_numpy(-facts["position"].T.copy())
                )
                keys.update(
                    {(int(fact["grid"]), int(fact["patch"])): key for fact, key in zip(facts, upright, strict=True)}
                )
        stored.append(keys)
    shared = set(stored[0]) & set(stored[1])
    assert any(grid < 35 for grid, _ in shared)
    for token in shared:
        torch.testing.assert_close(stored[0][token], stored[1][token], atol=1e-4, rtol=1e-4)


class Counting(Unmoved):
    """How many trunks were gathered for in one go, each time."""

    def __init__(self) -> None:
        self.together: list[int] = []

    def gathered(self, jobs: Sequence[Gathering], told: Sequence[Tensor]) -> None:
        self.together.append(len(jobs))


def test_sessions_that_are_full_are_compacted_in_one_go(rig: Callable[..., Rig]) -> None:
    counting = Counting()
    r = rig({"watch": counting}, pool_tokens=4096)
    names = ("a", "b", "c")
    for name in names:
        r.open(name, policy="infinipot", budget_tokens=400)
    stream(r, 40, *names)
    assert counting.together
    assert set(counting.together) == {3}
