"""Random models of the shapes that are measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.random_model import QWEN3VL_8B, QWEN25VL_7B, random_checkpoint
from workers.engine.engine import Engine
from workers.engine.messages import AskQuestion, Event, OpenSession, PushFrame, QuestionDone
from workers.engine.settings import EngineSettings
from workers.models.config import ModelConfig
from workers.models.footprint import parameters

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("config", "billions"), [(QWEN25VL_7B, 8.29), (QWEN3VL_8B, 8.77)])
def test_shapes_are_those_of_the_models(config: ModelConfig, billions: float) -> None:
    assert parameters(config) / 1e9 == pytest.approx(billions, abs=0.01)


def test_a_narrower_model_of_the_second_shape_answers() -> None:
    text = replace(QWEN3VL_8B.text, vocab_size=2100, hidden_size=64, intermediate_size=96, layers=5)
    text = replace(text, heads=2, kv_heads=1)
    vision = replace(QWEN3VL_8B.vision, hidden_size=32, intermediate_size=48, heads=2, out_hidden_size=64)
    checkpoint = random_checkpoint("cpu", torch.float32, replace(QWEN3VL_8B, text=text, vision=vision), side=64)
    events: list[Event] = []
    shown = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    engine = Engine(checkpoint, EngineSettings(pool_tokens=1024), lambda _: shown, events.append)
    engine.handle(OpenSession(session_id="s", budget_tokens=512, policy="window", instructions="Watch.", complete=True))
    engine.handle(
        PushFrame(session_id="s", sequence=1, t_ms=0, slot=0, width=64, height=64, deadline=1e12),
    )
    engine.handle(AskQuestion(session_id="s", question_id="q", text="What?", at_ms=0, wait_until=1e12, max_tokens=4))
    while engine.step():
        pass
    (done,) = [event for event in events if isinstance(event, QuestionDone)]
    assert (done.finish_reason, done.completion_tokens) == ("length", 4)
