"""The engine on a family whose tokens carry deep features and whose frames stand behind timestamps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.engine.rig import Rig
from tests.workers.models.parity import our_logits, stream_of
from workers.core import Kind
from workers.engine.batch import Runner, Work
from workers.engine.settings import EngineSettings
from workers.models.chat import Span
from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.models.decoder import Deepstack, placed
from workers.models.pixels import resized

pytestmark = pytest.mark.parity

QUESTION = "What is on the table now?"
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["dense", "experts"])
def checkpoint(request: pytest.FixtureRequest, tiny_qwen3vl: Callable[..., Any]) -> Checkpoint:
    """128 x 128 pictures of 4 x 4 tokens, three layers of which two take deep features."""
    return open_checkpoint(tiny_qwen3vl(seed=1, experts=request.param == "experts").folder)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Logits of every pass in which somebody wanted some, in order."""
    rows: list[Tensor] = []
    run = Runner.run

    def recording(runner: Runner, works: Sequence[Work]) -> Tensor:
        logits = run(runner, works)
        rows.extend(logits)
        return logits

    monkeypatch.setattr(Runner, "run", recording)
    return rows


def rig_of(checkpoint: Checkpoint, **settings: Any) -> Rig:
    return Rig(checkpoint, EngineSettings(**{"pool_tokens": 2048, **settings}))


def session(r: Rig) -> list[int]:
    """Three frames, a remembered exchange, two frames and a question; the answers' tokens."""
    r.open(policy="full", budget_tokens=1024)
    for t_ms in (0, 1000, 2300):
        r.push(t_ms, width=128, height=128)
    r.ask("first", at_ms=2300, text=QUESTION, max_tokens=4)
    r.run()
    for t_ms in (3000, 64_000):
        r.push(t_ms, width=128, height=128)
    r.ask("second", at_ms=64_000, text=QUESTION, max_tokens=4)
    r.run()
    return [*r.answer("first"), *r.answer("second")]


def whole_logits(r: Rig) -> Tensor:
    """What the plain model makes of the second question and its answer."""
    chat, checkpoint = r.checkpoint.chat, r.checkpoint
    spans: list[Span] = [chat.header("You are watching a live video.")]
    for t_ms in (0, 1000, 2300):
        spans.append(chat.frame(spans[-1].clock, t_ms, 4, 4))
    spans.append(chat.remembered(spans[-1].clock, QUESTION, r.answer("first")))
    for t_ms in (3000, 64_000):
        spans.append(chat.frame(spans[-1].clock, t_ms, 4, 4))
    spans.append(chat.question(spans[-1].clock, QUESTION))
    spans.append(chat.answer(spans[-1].clock, r.answer("second")))
    pictures = torch.from_numpy(np.stack([resized(r.pictures[slot], 128, 128) for slot in range(1, 6)]))
    patches = list(checkpoint.pixels.patches(pictures))
    return our_logits(checkpoint, stream_of(spans, patches, [(1, 8, 8)] * 5))[-5:-1]


def test_policy_full_equals_the_plain_model(checkpoint: Checkpoint, heard: list[Tensor]) -> None:
    r = rig_of(checkpoint)
    tokens = session(r)
    assert len(tokens) == 8, "choose another seed: an answer stopped early"
    with torch.inference_mode():
        expected = whole_logits(r)
    torch.testing.assert_close(torch.stack(heard[4:]), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_deep_features_that_get_lost_are_visible(
    checkpoint: Checkpoint, heard: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above would notice: without them the very first logits are others."""
    session(rig_of(checkpoint))
    expected = heard[0]
    heard.clear()

    def forgetful(embeds: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Deepstack | None]:
        return placed(embeds, rows, tokens)[0], None

    monkeypatch.setattr("workers.engine.batch.placed", forgetful)
    session(rig_of(checkpoint))
    assert (heard[0] - expected).abs().max() > 100 * TOLERANCE


def test_a_frame_and_its_timestamp_leave_together(checkpoint: Checkpoint) -> None:
    r = rig_of(checkpoint)
    r.open(budget_tokens=384)
    oldest = set()
    for second in range(40):
        r.push(second * 1000, width=128, height=128)
        r.run()
        trunk = r.engine.sessions["s"].trunk
        header, *frames = trunk.blocks
        assert (header.kind, {frame.kind for frame in frames}) == (Kind.SYSTEM, {Kind.FRAME})
        for frame in frames:
            facts = trunk.facts.of(np.arange(frame.first, frame.first + frame.tokens))
            lead = frame.tokens - 16
            assert facts["kind"].tolist() == [Kind.TEXT] * lead + [Kind.FRAME] * 16
            assert facts["patch"].tolist() == [-1] * lead + list(range(16))
        oldest.add(frames[0].grid)
    assert r.outcomes() == ["prefilled"] * 40
    assert len(oldest) > 20
    r.ask(at_ms=39_000)
    r.run()
    assert r.done().finish_reason in ("stop", "length")


def test_timed_frames_stay_within_the_trained_length(checkpoint: Checkpoint) -> None:
    r = rig_of(checkpoint, trained_length=512)
    r.open(budget_tokens=384)
    highest = 0
    for second in range(60):
        r.push(second * 1000, width=128, height=128)
        r.run()
        highest = max(highest, r.engine.sessions["s"].timeline.clock.next)
    assert r.outcomes() == ["prefilled"] * 60
    assert r.engine.sessions["s"].timeline.moved > 0
    assert highest <= 512
