"""What must hold for as long as a session runs: distances, pages, and the cost of a frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.workers.engine.rig import Rig
from workers.attention.plain import PlainAttention, PlannedAttention
from workers.core import KVStore, Query, Turn
from workers.engine.messages import CancelQuestion, EngineNotice, QuestionDone, QuestionStarted, Tokens
from workers.memory.facts import Facts

pytestmark = pytest.mark.unit

TRAINED_LENGTH = 192


class Ruler(PlainAttention):
    """Attention that measures how far queries are from the keys they see, by the session's own fact table."""

    def __init__(self, store: KVStore, turn: Turn) -> None:
        super().__init__(store, turn)
        self.rig: Rig
        self.largest = 0
        self.keys: list[int] = []

    def plan(self, queries: tuple[Query, ...]) -> PlannedAttention:
        (session,) = self.rig.engine.sessions.values()
        self.keys.append(sum(part.tokens for query in queries for part in query.parts))
        for query in queries:
            self.largest = max(self.largest, self._reach(query, session.trunk.facts))
        return super().plan(queries)

    def _reach(self, query: Query, facts: Facts) -> int:
        """The largest distance on any axis, between the new tokens themselves too."""
        pool = self.rig.engine.pool
        keys = [query.positions]
        for part in query.parts:
            slots = [range(*run) for run in part.runs(0, 0)]
            ids = pool.token_ids[0, 0, np.concatenate([np.array(run) for run in slots])]
            known = ids[np.isin(ids, facts._ids[: facts._used][facts._alive[: facts._used]])]
            keys.append(facts.of(known)["position"].T - part.turn)
        every = np.concatenate(keys, axis=1)
        return int((query.positions.max(axis=1) - every.min(axis=1)).max())


def measured(rig: Callable[..., Rig], **settings: object) -> tuple[Rig, Ruler]:
    rulers: list[Ruler] = []

    def make(store: KVStore, turn: Turn) -> Ruler:
        rulers.append(Ruler(store, turn))
        return rulers[0]

    r = rig({"make_attention": make}, **settings)
    rulers[0].rig = r
    return r, rulers[0]


def long_run(r: Rig, ruler: Ruler, frames: int) -> None:
    """A frame each second and, every so often, questions of both kinds that overlap with it."""
    r.open(budget_tokens=512)
    for n in range(frames):
        r.push(n * 1000)
        if n % 40 == 7:
            r.ask(f"frozen {n}", at_ms=n * 1000, remember=n % 80 == 7, max_tokens=5)
        if n % 60 == 11:
            r.ask(f"live {n}", at_ms=n * 1000, mode="live", remember=False, max_tokens=12)
        r.run(steps=4, check=n % 10 == 0)
    r.run()


def test_no_query_is_ever_farther_from_a_key_than_the_trained_length(rig: Callable[..., Rig]) -> None:
    r, ruler = measured(rig, trained_length=TRAINED_LENGTH)
    long_run(r, ruler, frames=20 * TRAINED_LENGTH // 2)  # two positions a second: 20 times the trained length
    timeline = r.engine.sessions["s"].timeline
    assert timeline.moved + timeline.clock.next >= 20 * TRAINED_LENGTH
    assert ruler.largest < TRAINED_LENGTH
    assert ruler.largest > TRAINED_LENGTH // 2, "the run did not come near what it is to show"
    assert set(r.outcomes()) == {"prefilled"}
    assert {event.finish_reason for event in r.said(QuestionDone)} <= {"stop", "length"}


def test_without_re_anchoring_distances_grow_without_end(rig: Callable[..., Rig]) -> None:
    r, ruler = measured(rig, trained_length=TRAINED_LENGTH, reanchor=False)
    long_run(r, ruler, frames=2 * TRAINED_LENGTH)
    assert ruler.largest > 3 * TRAINED_LENGTH


def test_re_anchoring_changes_no_answer_while_nothing_is_dropped(rig: Callable[..., Rig]) -> None:
    """Relative positions are all that a model sees: a session moved by a constant gives the same logits."""
    answers = []
    for moved in (0, 1000):
        r = rig()
        r.open()
        r.push(0)
        r.push(1000)
        r.run()
        timeline = r.engine.sessions["s"].timeline
        if moved:
            timeline.trunk.turn(moved)
            timeline.clock = timeline.clock.shifted(-moved)
        r.push(2000)
        r.ask(at_ms=2000)
        r.run()
        answers.append(r.answer())
    assert answers[0] == answers[1]


def test_a_live_answer_goes_on_over_a_re_anchoring(rig: Callable[..., Rig]) -> None:
    answers = []
    for moved in (0, 1000):
        r = rig()
        r.open()
        r.push(0)
        r.ask(mode="live", max_tokens=8)
        while len(r.answer()) < 3:
            r.engine.step()
        timeline = r.engine.sessions["s"].timeline
        timeline.trunk.turn(moved)
        timeline.clock, timeline.moved = timeline.clock.shifted(-moved), moved
        r.push(1000)
        r.run()
        answers.append(r.answer())
    assert answers[0] == answers[1]
    assert len(answers[0]) > 4, "choose another seed: the answer is too short"


def test_a_frame_costs_the_same_however_old_the_session_is(rig: Callable[..., Rig]) -> None:
    r, ruler = measured(rig)
    r.open(budget_tokens=512)
    keys, pages, facts = [], [], []
    for n in range(400):
        ruler.keys.clear()
        r.push(n * 1000)
        r.run()
        session = r.engine.sessions["s"]
        keys.append(sum(ruler.keys))
        pages.append(session.trunk.share.held)
        facts.append(len(session.trunk.facts._rows))
    assert max(keys[100:]) - min(keys[100:]) <= 32
    assert max(pages[100:]) - min(pages[100:]) <= 2
    assert facts[100] == facts[-1]


@pytest.mark.parametrize("policy", ["window", "full"])
def test_the_budget_is_never_exceeded(rig: Callable[..., Rig], policy: str) -> None:
    r = rig()
    r.open(budget_tokens=320, policy=policy)
    share = r.engine.sessions["s"].trunk.share
    for n in range(60):
        r.push(n * 1000)
        if n % 10 == 5:
            for name in ("a", "b"):
                r.ask(f"{name}{n}", at_ms=n * 1000, max_tokens=40)
        r.run(steps=3)
        assert share.held * r.engine.pool.page_size <= 320
        assert r.engine.sessions["s"].trunk.pages <= 15  # a quarter of the 20 pages is for branches and pins
    r.run()
    assert share.held == r.engine.sessions["s"].trunk.pages
    if policy == "full":
        assert "dropped_full" in r.outcomes()
        assert r.outcomes()[0] == "prefilled"
    else:
        assert set(r.outcomes()) == {"prefilled"}


def test_a_frozen_answer_whose_pins_would_break_the_budget_goes_live(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.open(budget_tokens=320)
    for n in range(20):
        r.push(n * 1000)
    r.run()
    r.ask(at_ms=19_000, max_tokens=60)
    n = 20
    while not r.said(EngineNotice) and not r.said(QuestionDone):
        r.push(n * 1000)
        n += 1
        r.engine.step()
        r.check()
    (notice,) = r.said(EngineNotice)
    assert (notice.code, notice.question_id) == ("branch_went_live", "q")
    assert r.said(QuestionStarted)[0].mode == "frozen"
    r.run()
    assert len(r.said(Tokens)) > 2
    assert set(r.outcomes()) == {"prefilled"}


def test_random_operations_leave_the_books_balanced(each_rig: Callable[..., Rig]) -> None:
    """Whatever is done in whatever order: pages add up after each step, budgets hold, every question ends once."""
    for seed in range(4):
        chance = np.random.default_rng(seed)
        r = each_rig(pool_tokens=1536, trained_length=256)
        names = ["a", "b", "c"]
        policies = ["window", "window", "full"]
        for name, policy in zip(names, policies, strict=True):
            r.open(name, budget_tokens=int(chance.integers(260, 500)), policy=policy, complete=name == "b")
        times = dict.fromkeys(names, 0)
        for n in range(120):
            name = names[chance.integers(3)]
            act = chance.random()
            if act < 0.5:
                times[name] += int(chance.choice([250, 1000, 5000, 70_000]))
                r.push(times[name], name, deadline=r.now + float(chance.integers(-1, 3)))
            elif act < 0.75:
                mode = ["frozen", "live"][chance.integers(2)]
                settings = {
                    "mode": mode,
                    "remember": bool(chance.integers(2)),
                    "max_tokens": int(chance.integers(1, 40)),
                }
                at_ms = times[name] + int(chance.choice([-1000, 0, 0, 3000]))
                r.ask(f"{name}{n}", name, at_ms=at_ms, wait_until=r.now + 3, **settings)
            elif act < 0.85:
                r.engine.handle(CancelQuestion(session_id=name, question_id=f"{name}{chance.integers(max(n, 1))}"))
            else:
                r.now += 1
            r.run(steps=int(chance.integers(0, 4)))
        r.now += 10
        r.run()
        started = {event.question_id for event in r.said(QuestionStarted)}
        assert started <= {event.question_id for event in r.said(QuestionDone)}, f"seed {seed}"
        ended = [event.question_id for event in r.said(QuestionDone)]
        assert len(ended) == len(set(ended)), f"seed {seed}"
        assert len(r.outcomes()) == r.pushed, f"seed {seed}"
        for session in r.engine.sessions.values():
            assert session.trunk.share.held == session.trunk.pages
    assert torch.isfinite(r.engine.pool.store.keys).all()
