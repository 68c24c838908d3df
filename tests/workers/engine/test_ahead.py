"""The engine as it runs on a GPU: FlashInfer's attention, graphs, the host a step ahead of the device.

In bfloat16 on a GPU, against the CPU in float32; without one on the CPU, where a wrapper spelt out in torch stands in
for FlashInfer's and what graphs would replay is computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.attention.paged import Launched, Uncaptured, paged
from tests.workers.cuda import without_waiting
from tests.workers.engine.rig import Rig, pages, session
from workers.engine.batch import Runner, Work
from workers.engine.messages import CancelQuestion, CloseSession, QuestionDone
from workers.engine.settings import EngineSettings
from workers.models.capture import Captured
from workers.models.chat import SpecialTokens
from workers.models.checkpoint import Checkpoint, open_checkpoint

pytestmark = pytest.mark.parity

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
HEADS = 4
SHAPE = {
    "hidden_size": 256,
    "num_attention_heads": HEADS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [8, 12, 12]},
}
SETTINGS = EngineSettings(pool_tokens=4096, step_tokens=256, step_pictures=8)

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def folder(tiny_qwen25vl: Callable[..., Any]) -> Path:
    path: Path = tiny_qwen25vl(seed=1, text=SHAPE).folder
    return path


@pytest.fixture(scope="module", params=DEVICES)
def there(folder: Path, request: pytest.FixtureRequest) -> Checkpoint:
    """The model on the device that is tested."""
    return open_checkpoint(folder, request.param, torch.float32 if request.param == "cpu" else torch.bfloat16)


def rig(checkpoint: Checkpoint, **make: Any) -> Rig:
    return Rig(checkpoint, SETTINGS, {"make_attention": partial(paged, HEADS), "ahead": True, **make})


def heard(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, make: Callable[[Checkpoint], Rig]) -> Tensor:
    """Logits of five questions' first tokens, on a memory that has forgotten half of the stream."""
    rows: list[Tensor] = []
    run = Runner.run

    def recording(runner: Runner, works: list[Work]) -> Tensor:
        logits = run(runner, works)
        rows.extend(logits.float().cpu())
        return logits

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run", recording)
        r = make(checkpoint)
        r.open(budget_tokens=512)
        for n in range(30):
            r.push(n * 1000)
        r.run()
        for n in range(5):
            r.ask(str(n), at_ms=29_000, text=f"{n}: what is on the table?", max_tokens=1, remember=False)
        r.run()
    assert len(rows) == 5
    return torch.stack(rows)


def test_logits_are_those_of_the_reference(folder: Path, there: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = heard(open_checkpoint(folder), monkeypatch, lambda checkpoint: Rig(checkpoint, SETTINGS))
    ours = heard(there, monkeypatch, rig)
    half = there.model.decoder.embed_tokens.weight.is_cuda
    assert (ours - expected).abs().max() < (0.05 if half else 1e-4) * expected.abs().max()


@pytest.mark.parametrize("there", ["cpu"], indirect=True)
def test_graphs_change_nothing(there: Checkpoint) -> None:
    """On a GPU passes without them have other kernels, which round otherwise: test_replay says by how much."""
    captured, plain = rig(there), rig(there, make_attention=partial(Uncaptured, HEADS))
    assert captured.engine._graphs is not None
    assert plain.engine._graphs is None
    assert session(captured) == session(plain)
    for ours, theirs in zip(pages(captured), pages(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.05, rtol=0.05)


def test_what_is_replayed_is_what_would_be_launched(there: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kernels on the same rows, captured or not: every token, and every bit of every page."""
    captured = rig(there)
    replayed = session(captured)
    monkeypatch.setattr(Captured, "_captured", lambda *_: None)
    plain = rig(there, make_attention=partial(paged, HEADS, wrapper=Launched))
    assert session(plain) == replayed
    for ours, theirs in zip(pages(captured), pages(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_answers_and_frames_of_many_sessions_share_a_graph(there: Checkpoint) -> None:
    """Twelve answers beside three frames, and questions that come in between; then frames alone."""
    answers = []
    for make in ({}, {"make_attention": partial(Uncaptured, HEADS)}):
        r = rig(there, **make)
        for n in range(3):
            r.open(str(n), budget_tokens=512)
        for n in range(12):
            r.ask(f"{n}", str(n % 3), wait_until=-1.0, text=f"{n}: what is on the table?", max_tokens=24)
        for t_ms in range(0, 12_000, 1000):
            for n in range(3):
                r.push(t_ms, str(n), seed=t_ms + n)
            r.run(steps=2)
            if t_ms == 4000:
                r.ask("late", "1", wait_until=-1.0, max_tokens=4)
        r.run()
        answers.append([r.answer(name) for name in (*map(str, range(12)), "late")])
        if r.engine._graphs is not None:
            sizes = [size for size in r.engine._graphs._graphs if size.singles is not None]
            assert {size.singles for size in sizes} >= {0, 32}, sizes
            assert len({size.rows for size in sizes}) > 2
    assert all(answers[0])
    if not there.model.decoder.embed_tokens.weight.is_cuda:  # where kernels differ with graphs, and what they round
        assert answers[0] == answers[1]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_being_ahead_changes_nothing(there: Checkpoint, temperature: float) -> None:
    """The last token of an answer is known a step late: what was computed after it is forgotten."""
    drawing = {"temperature": temperature, "top_p": 0.9, "seed": 3}
    late, prompt = rig(there), rig(there, ahead=False)
    assert session(late, **drawing) == session(prompt, **drawing)
    for ours, theirs in zip(pages(late), pages(prompt), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_session_again_gives_the_same_tokens_and_pages(there: Checkpoint) -> None:
    first = rig(there)
    answers = session(first, temperature=0.8, top_p=0.9, seed=3)
    assert any(answers)
    for _ in range(20 if first.engine.pool.store.keys.is_cuda else 2):
        again = rig(there)
        assert session(again, temperature=0.8, top_p=0.9, seed=3) == answers
        for ours, theirs in zip(pages(again), pages(first), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_an_answer_that_ends_early_leaves_nothing_behind(there: Checkpoint) -> None:
    r = rig(there)
    r.open()
    r.push(0)
    r.ask("cancelled", max_tokens=50)
    r.run(steps=4)
    r.engine.handle(CancelQuestion(session_id="s", question_id="cancelled"))
    r.ask("closed", max_tokens=50)
    r.run(steps=3)
    r.check()
    r.engine.handle(CloseSession(session_id="s"))
    r.run()
    assert [event.finish_reason for event in r.said(QuestionDone)] == ["cancelled", "cancelled"]
    assert r.engine.pool.pages_used == 0
    for event in r.said(QuestionDone):
        assert len(r.answer(event.question_id)) == event.completion_tokens > 0


def test_nothing_follows_the_token_that_ends_an_answer(there: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[list[int]] = []
    for stop in (None, 5):
        r = rig(there)
        r.open()
        r.push(0)
        if stop is not None:
            last = answers[0][stop]
            monkeypatch.setattr(SpecialTokens, "stops", frozenset({last}))
        r.ask(max_tokens=20)
        r.run()
        answers.append(r.answer())
    assert len(answers[0]) == 20, "choose another seed: the answer stopped by itself"
    assert answers[1] == answers[0][: answers[0].index(last)]
    assert (r.done().finish_reason, r.done().completion_tokens) == ("stop", len(answers[1]))
    assert r.engine.sessions["s"].kv_bytes == r.engine.sessions["s"].trunk.pages * r.engine.pool.page_bytes


@pytest.mark.parametrize("there", [pytest.param("cuda", marks=GPU)], indirect=True)
def test_steps_make_the_host_wait_for_nothing_but_tokens(there: Checkpoint) -> None:
    r = rig(there)
    session(r)
    with without_waiting():
        for n in range(12, 20):
            r.push(n * 1000, "a")
            r.ask(f"more {n}", "b", at_ms=0, max_tokens=4, temperature=0.5, remember=False)
            r.run(steps=3, check=False)
        r.run(check=False)
