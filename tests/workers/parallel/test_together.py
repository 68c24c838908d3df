"""An engine on several ranks does what it does on one: the same tokens, the same books, the same memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.engine.rig import Rig
from tests.workers.parallel.pair import led_rig
from workers.engine.messages import CloseSession
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import open_checkpoint

pytestmark = pytest.mark.unit

MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "qwen25vl": ("tiny_qwen25vl", {}, 112),
    "qwen3vl": ("tiny_qwen3vl", {}, 128),
    "experts": ("tiny_qwen3vl", {"experts": True}, 128),
}
QUESTION = "What is on the table now?"


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[Path, int]:
    """A model's folder, and the edge of its pictures."""
    maker, options, side = MODELS[request.param]
    return request.getfixturevalue(maker)(seed=1, **options).folder, side


@pytest.fixture
def folder(tiny_qwen25vl: Callable[..., Any]) -> Path:
    folder: Path = tiny_qwen25vl(seed=1).folder
    return folder


def settings(**changes: Any) -> EngineSettings:
    return EngineSettings(**{"pool_tokens": 2048, **changes})


def alone_and_led(
    folder: Path, scene: Callable[[Rig], Any], settings: EngineSettings, size: int = 2, **make: Any
) -> tuple[Any, Any]:
    """What a scene gives on one rank, and on several."""
    alone = scene(Rig(open_checkpoint(folder), settings, make))
    with led_rig(folder, size, settings, **make) as (rig, _):
        return alone, scene(rig)


def two_sessions(r: Rig, side: int, **opened: Any) -> dict[str, Any]:
    """Frames, frozen and live answers side by side in two sessions, one remembered."""
    for name in ("a", "b"):
        r.open(name, **{"policy": "full", "budget_tokens": 1024, **opened})
    for n in range(6):
        for place, name in enumerate(("a", "b")):
            r.push(n * 1000, name, seed=10 * place + n, width=side, height=side)
        if n == 2:
            r.ask("q1", "a", at_ms=2000, text=QUESTION, max_tokens=6)
            r.ask("q2", "b", at_ms=2000, text=QUESTION, max_tokens=6, mode="live", remember=False)
        r.run(steps=2)
    r.run()
    r.ask("q3", "a", at_ms=5000, text=QUESTION, max_tokens=6)
    r.ask("q4", "b", at_ms=5000, text=QUESTION, max_tokens=6, temperature=1.0, seed=4)
    r.run()
    return {
        "tokens": [r.answer(question) for question in ("q1", "q2", "q3", "q4")],
        "outcomes": r.outcomes(),
        "kept": [session.trunk.tokens for session in r.engine.sessions.values()],
        "bytes": [session.kv_bytes for session in r.engine.sessions.values()],
    }


def test_two_ranks_say_what_one_says(model: tuple[Path, int]) -> None:
    folder, side = model
    alone, led = alone_and_led(folder, lambda r: two_sessions(r, side), settings())
    assert led == alone
    assert sum(map(len, alone["tokens"])) > 12, "choose another seed: answers stopped early"


def test_a_token_that_no_host_has_read_is_known_to_all(folder: Path) -> None:
    alone, led = alone_and_led(folder, lambda r: two_sessions(r, 112), settings(), ahead=True)
    assert led == alone


@pytest.mark.parametrize("groups", [1, 2])
def test_compaction_keeps_the_same_tokens(folder: Path, groups: int) -> None:
    """With one group of heads the ranks choose together, with two each for its own."""

    def scene(r: Rig) -> dict[str, Any]:
        r.open(policy="infinipot", budget_tokens=400)
        for n in range(60):
            r.push(n * 1000)
            if n % 7 == 3:
                r.ask(f"q{n}", at_ms=n * 1000, max_tokens=4, mode=["frozen", "live"][n % 2], remember=n % 3 == 0)
            r.run(steps=3)
        r.run()
        trunk = r.engine.sessions["s"].trunk
        trunk.settle()
        assert any(block.core for block in trunk.blocks)
        held = [r.engine.pool.read_ids(r.engine.pool.slots_of(block.pages)) for block in trunk.blocks if block.core]
        return {"tokens": [r.answer(f"q{n}") for n in range(60)], "held": [each.tolist() for each in held]}

    alone, led = alone_and_led(folder, scene, settings(head_groups=groups, trained_length=256))
    assert led == alone


@pytest.mark.parametrize("afterimages", [0, 8], ids=["encoded whole", "encoded where it changes"])
def test_what_stands_still_is_dropped_everywhere(afterimages: int, tiny_qwen25vl: Callable[..., Any]) -> None:
    """A rank that remembers of a stream what stands still gets all of its pictures."""

    def scene(r: Rig) -> list[Any]:
        for name in ("a", "b", "c"):
            r.open(name, policy="full", budget_tokens=512)
        for n in range(12):
            for name in ("a", "b", "c"):
                r.push(0, name, seed=3) if n == 0 else r.push(n * 1000, name, shown=half_changed(r, n))
            r.run()
        r.ask(session_id="b", at_ms=11_000, max_tokens=6)
        r.run()
        return [r.answer(), r.outcomes(), [session.trunk.tokens for session in r.engine.sessions.values()]]

    folder = tiny_qwen25vl(seed=1, vision={"window_size": 56}).folder
    alone, led = alone_and_led(folder, scene, settings(drop_threshold=8, afterimages=afterimages))
    assert led == alone
    assert max(alone[2]) < 12 * 16


def half_changed(r: Rig, n: int) -> Any:
    shown = r.pictures[1].copy()
    shown[:56] = 255 - shown[:56] if n % 2 else shown[:56] // 2
    return shown


def test_each_rank_remembers_its_own_heads(folder: Path) -> None:
    """Side by side the ranks' keys are those of one rank; pages beyond what was written stay empty."""
    whole = Rig(open_checkpoint(folder), settings())
    with led_rig(folder, 2, settings()) as (rig, followers):
        for r in (whole, rig):
            two_sessions(r, 112, policy="window", budget_tokens=256)
        assert followers[0]._rank is not None
        stores = [rig.engine.pool.store, followers[0]._rank._device.pool.store]
    keys = torch.cat([store.keys for store in stores], dim=3)
    torch.testing.assert_close(keys, whole.engine.pool.store.keys, atol=1e-4, rtol=1e-4)
    assert stores[0].keys.shape[3] == 1


def test_four_ranks(tiny_qwen25vl: Callable[..., Any]) -> None:
    shape = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
    folder = tiny_qwen25vl(seed=2, text=shape).folder
    alone, led = alone_and_led(folder, lambda r: two_sessions(r, 112), settings(head_groups=4), size=4)
    assert led == alone


def test_what_is_gone_here_is_gone_everywhere(folder: Path) -> None:
    """The ranks that are led keep no part and no feature that rank 0 has no more."""
    with led_rig(folder, 2, settings()) as (rig, followers):
        for _ in range(3):
            two_sessions(rig, 112, policy="window", budget_tokens=256)
            for name in ("a", "b"):
                rig.engine.handle(CloseSession(session_id=name))
        rig.open()
        rig.push(0)
        rig.run()
        rank, leader = followers[0]._rank, rig.engine.device
        assert rank is not None
        assert len(rank._parts) <= len(leader._parts) + 4  # type: ignore[attr-defined]
        assert len(rank._features) <= len(leader._frames) + 1  # type: ignore[attr-defined]


def test_an_engine_may_begin_anew(folder: Path) -> None:
    """As it does after it was measured: nothing of the one before is left on any rank."""
    alone = two_sessions(Rig(open_checkpoint(folder), settings()), 112)
    with led_rig(folder, 2, settings(pool_tokens=1024)) as (rig, followers):
        rig.open()
        rig.push(0)
        rig.run()
        again = Rig(rig.checkpoint, settings(), rig.make)
        again.pictures = rig.pictures
        assert two_sessions(again, 112) == alone
        assert followers[0]._rank is not None
        assert followers[0]._rank._device.pool.pages == again.engine.pool.pages
