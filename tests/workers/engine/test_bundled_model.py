"""What the bundled model says while the picture changes under its answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.workers.engine.rig import Rig
from training.world.catalogue import of_family
from training.world.renderer import Renderer
from training.world.script import Actor, Camera, Script
from training.world.video import pictures
from workers.engine.messages import Tokens
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, open_checkpoint

pytestmark = pytest.mark.parity

MINI = Path(__file__).parents[3] / "models" / "mini"
SECONDS = 8
PAIRS = (("apple", "dog"), ("guitar", "rocket"), ("banana", "shark"))
STILL = Camera(shake=0.0, drift=(0.0, 0.0), gain=1.0, swing=0.0, phase=0.0, noise=0.01)


@pytest.fixture(scope="module")
def mini() -> Checkpoint:
    return open_checkpoint(MINI)


def replaced(old: str, new: str) -> Iterator[NDArray[np.uint8]]:
    """A picture a second: `old` in the upper right until four seconds, `new` in its place from then on."""
    named = {thing.name: thing for thing in of_family("sprite")}
    here = ([0.0], [187.0], [37.0])
    first = Actor(named[old], 56.0, here, enters=(-9.0, -9.0), leaves=(3.5, 3.5))
    second = Actor(named[new], 56.0, here, enters=(3.5, 3.5))
    script = Script(1, float(SECONDS), (first, second), (), ((0.0, 3),), STILL)
    return pictures(script, 1.0, Renderer.on(torch.device("cpu")))


def ask_while_it_changes(checkpoint: Checkpoint, mode: str, shown: list[NDArray[np.uint8]]) -> str:
    """The answer to what is there, asked after four pictures; the others come once three tokens are out."""
    rig = Rig(checkpoint, EngineSettings(pool_tokens=4096))
    rig.open(budget_tokens=2048)

    def push(second: int) -> None:
        rig.push(second * 1000, width=224, height=224)
        rig.pictures[rig.pushed] = shown[second]

    for second in range(4):
        push(second)
        rig.run()
    rig.ask(text="What is in the upper right?", at_ms=3000, mode=mode, max_tokens=16, remember=False)
    while len(rig.answer()) < 3:
        assert rig.engine.step()
    for second in range(4, SECONDS):
        push(second)
    # The frames come before the next token, so that what follows them is said in full knowledge of them.
    answers = rig.engine.sessions["s"].answers
    running, answers.running = answers.running, []
    rig.run(check=False)
    answers.running = running
    rig.run()
    return "".join(event.text for event in rig.said(Tokens))


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_what_appears_while_an_answer_is_spoken_is_in_the_live_answer_alone(
    mini: Checkpoint, old: str, new: str
) -> None:
    shown = list(replaced(old, new))
    frozen = ask_while_it_changes(mini, "frozen", shown)
    live = ask_while_it_changes(mini, "live", shown)
    assert old in frozen
    assert new not in frozen
    assert new in live
