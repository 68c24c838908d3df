"""The engine in half precision, as it runs on a GPU, against the reference: plain attention in float32 on the CPU.

Which tokens survive a compaction hangs on differences that rounding turns round, and everything after that on which do.
So the reference's choices are given to the other engine, and how far its own would have been the same is counted.
Without a GPU it is the CPU that runs it in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.engine.judged import DEVICES, Hearing, Judged, mini, rig, shaped
from tests.workers.engine.kept import Choices, Sets, overlap, policies
from tests.workers.engine.rig import Rig
from workers.memory.infinipot import rank

pytestmark = pytest.mark.parity

PREFIXES = (0, 2, 5)
TOLERANCE = 0.05  # of the largest logit
HELD, SURVIVORS = 0.99, 0.97  # of what memories hold, and of what was chosen for them, the same in both


@pytest.fixture(scope="module", params=["mini", "shaped"])
def model(request: pytest.FixtureRequest, tiny_qwen25vl: Callable[..., Any]) -> Judged:
    return mini() if request.param == "mini" else shaped(tiny_qwen25vl)


def stream(r: Rig, model: Judged, answer: Sequence[int] | None = None) -> list[int]:
    """A stream that is longer than the memory, then a question; with an `answer`, after some of its tokens each."""
    r.open(policy="infinipot", budget_tokens=model.budget, complete=True)
    for n in range(model.frames):
        r.push(n * 1000)
        r.run()
    asked: dict[str, Any] = {"at_ms": 0, "remember": False}
    if answer is None:
        r.ask(max_tokens=max(PREFIXES), **asked)
        r.run()
        return r.answer()
    for count in PREFIXES:
        r.ask(f"after {count}", prefix=tuple(answer[:count]), max_tokens=count + 1, **asked)
        r.run()
    return []


def heard(r: Rig, model: Judged, answer: Sequence[int]) -> Tensor:
    """Logits [prefixes, vocabulary] after the beginnings of an answer."""
    hearing = r.make["watch"]
    stream(r, model, answer)
    return torch.stack(hearing.rows)


class Reference:
    """What the CPU makes of the stream in float32: an answer, its logits, and what was kept."""

    def __init__(self, model: Judged) -> None:
        checkpoint = model.reference()
        self.answer = stream(rig(checkpoint, as_on_card=False), model)
        choices = Choices(rank)
        engine = rig(checkpoint, as_on_card=False, watch=Hearing(), policies=policies(choices))
        self.logits = heard(engine, model, self.answer)
        self.kept, self.held = choices.own, engine.make["watch"].held

    def off(self, logits: Tensor) -> float:
        """The largest difference of a logit, as a share of the largest."""
        return float((logits - self.logits).abs().max() / self.logits.abs().max())


@pytest.fixture(scope="module")
def reference(model: Judged) -> Reference:
    return Reference(model)


def judged(model: Judged, device: str, reference: Reference, given: Sets) -> tuple[float, Choices]:
    """How far the engine's logits are off where those survive that are `given`, and what it would have kept."""
    choices = Choices(rank, given)
    engine = rig(model.opened(device, torch.bfloat16), watch=Hearing(), policies=policies(choices))
    return reference.off(heard(engine, model, reference.answer)), choices


@pytest.mark.parametrize("device", DEVICES)
def test_logits_and_choices_are_those_of_the_reference(
    model: Judged, device: str, reference: Reference, record_property: Callable[[str, object], None]
) -> None:
    off, choices = judged(model, device, reference, reference.kept)
    survivors = overlap(choices.own, reference.kept)
    held = overlap(choices.own, reference.kept, reference.held)
    for name, value in (("logits_off", off), ("held_alike", held), ("survivors_alike", survivors)):
        record_property(name, round(value, 5))
    assert len(reference.kept) > 1, "the stream has to be longer than the memory"
    assert off < TOLERANCE
    assert held >= HELD
    assert survivors >= SURVIVORS


def test_other_choices_would_be_noticed(model: Judged, reference: Reference) -> None:
    """The choices of the worst instead of the best: the measure above tells them from the reference's."""
    upside_down = Choices(lambda candidates: -rank(candidates))
    engine = rig(model.reference(), as_on_card=False, watch=Hearing(), policies=policies(upside_down))
    assert reference.off(heard(engine, model, reference.answer)) > TOLERANCE
    assert overlap(upside_down.own[:1], reference.kept[:1]) < SURVIVORS
    assert overlap(upside_down.own[:1], reference.kept[:1], reference.held) < HELD
