"""Memory in eight bits: half the bytes, nearly the same answers, by the reference and as it runs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.attention.paged import Uncaptured, paged
from tests.workers.engine.rig import Rig, pages, session
from workers.core import FLOAT8
from workers.engine.batch import Runner
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, open_checkpoint

pytestmark = pytest.mark.parity

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
HEADS = 2
SHAPE = {  # heads of 128, for which kernels are built that read eight bits
    "hidden_size": 256,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [16, 24, 24]},
}
SETTINGS = EngineSettings(pool_tokens=4096, step_tokens=256, step_pictures=8, kv_dtype="fp8")


@pytest.fixture(scope="module")
def folder(tiny_qwen25vl: Callable[..., Any]) -> Path:
    path: Path = tiny_qwen25vl(seed=1, text=SHAPE).folder
    return path


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=GPU)])
def there(folder: Path, request: pytest.FixtureRequest) -> Checkpoint:
    return open_checkpoint(folder, request.param, torch.float32 if request.param == "cpu" else torch.bfloat16)


def rig(checkpoint: Checkpoint, settings: EngineSettings = SETTINGS, **make: Any) -> Rig:
    return Rig(checkpoint, settings, {"make_attention": partial(paged, HEADS), "ahead": True, **make})


def logits(r: Rig, monkeypatch: pytest.MonkeyPatch, policy: str = "window") -> torch.Tensor:
    """Those of four questions' first tokens, on a memory that has forgotten half of the stream."""
    rows: list[torch.Tensor] = []
    run = Runner.run

    def recording(runner: Runner, works: Any) -> torch.Tensor:
        found = run(runner, works)
        rows.extend(found.float().cpu())
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run", recording)
        r.open(budget_tokens=512, policy=policy)
        for n in range(30):
            r.push(n * 1000)
        r.run()
        for n in range(4):
            r.ask(str(n), at_ms=29_000, text=f"{n}: what is on the table?", max_tokens=1, remember=False)
        r.run()
    assert len(rows) == 4
    return torch.stack(rows)


def test_the_same_memory_takes_half_the_bytes(folder: Path) -> None:
    checkpoint = open_checkpoint(folder, "cpu", torch.bfloat16)
    eight, whole = (Rig(checkpoint, replace(SETTINGS, kv_dtype=kind)) for kind in ("fp8", None))
    assert eight.engine.pool.store.keys.dtype == eight.engine.pool.store.values.dtype == FLOAT8
    assert 2 * eight.engine.pool.page_bytes == whole.engine.pool.page_bytes
    assert 2 * eight.engine.ready.card.bytes_per_token == whole.engine.ready.card.bytes_per_token


@pytest.mark.parametrize("policy", ["window", "infinipot"])
def test_logits_are_nearly_those_of_the_whole_memory(
    folder: Path, there: Checkpoint, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(Rig(open_checkpoint(folder), replace(SETTINGS, kv_dtype=None)), monkeypatch, policy)
    ours = logits(rig(there), monkeypatch, policy)
    assert 0 < (ours - expected).norm() / expected.norm() < 0.1


def test_logits_are_those_of_the_reference(folder: Path, there: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(Rig(open_checkpoint(folder), SETTINGS), monkeypatch)
    ours = logits(rig(there), monkeypatch)
    half = there.model.decoder.embed_tokens.weight.is_cuda
    # What lies between two of eight bits' values goes to one side here and to the other there.
    assert (ours - expected).norm() / expected.norm() < (0.08 if half else 1e-2)


def test_graphs_change_nothing_but_what_lies_between_two_values(there: Checkpoint) -> None:
    """Sums of another order make a key the next value of eight bits, from which greedy tokens may then part."""
    captured, plain = rig(there), rig(there, make_attention=partial(Uncaptured, HEADS))
    answers = [session(each, remember=False) for each in (captured, plain)]
    assert [len(answer) for answer in answers[0]] == [len(answer) for answer in answers[1]]
    for ours, theirs in zip(pages(captured), pages(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.13, rtol=0.13)
        assert np.mean(ours != theirs) < 0.1


def test_a_session_that_selects_and_turns_keeps_its_books(there: Checkpoint) -> None:
    r = rig(there, replace(SETTINGS, trained_length=192))
    r.open(budget_tokens=400, policy="infinipot")
    for n in range(40):
        r.push(n * 1000)
        if n % 10 == 9:
            r.ask(str(n), at_ms=n * 1000, max_tokens=4)
        r.run()
    assert all(r.answer(str(n)) for n in (9, 19, 29, 39))
    assert r.outcomes() == ["prefilled"] * 40
