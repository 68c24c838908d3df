"""Frames and patches that bring nothing new: what is left of them in the trunk, and what questions are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.workers.cuda import without_waiting
from tests.workers.engine.rig import FAR, Rig, picture
from workers.engine.messages import FrameTaken, QuestionDone, QuestionStarted
from workers.engine.session import Session
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.perception.changes import means
from workers.perception.glimpses import Change
from workers.perception.vision import Features

pytestmark = pytest.mark.unit

THRESHOLD = 6


def changed(seed: int, *patches: int) -> NDArray[np.uint8]:
    """The picture of `seed` with some of its 4 x 4 patches inverted, well inside."""
    shown = picture(seed)
    for patch in patches:
        top, left = (28 * place + 8 for place in divmod(patch, 4))
        shown[top : top + 8, left : left + 8] = 255 - shown[top : top + 8, left : left + 8]
    return shown


@pytest.fixture
def dropping(rig: Callable[..., Rig]) -> Callable[..., Rig]:
    """Makes rigs that drop what does not change, and keep no picture whole for its own sake."""
    return lambda **settings: rig(**{"drop_threshold": THRESHOLD, "drop_whole": 0, **settings})


def session(r: Rig) -> Session:
    return r.engine.sessions["s"]


def grids(r: Rig) -> list[tuple[int, int]]:
    """Time and number of tokens of each frame in the trunk."""
    return [(block.time_ms, block.tokens) for block in session(r).trunk.blocks if block.grid >= 0]


def push(r: Rig, t_ms: int, *patches: int, seed: int = 1, **changes: Any) -> None:
    """The picture of `seed` with some patches changed."""
    r.push(t_ms, shown=changed(seed, *patches), **changes)


def test_only_what_changed_is_written_where_it_stands_in_the_whole_grid(dropping: Callable[..., Rig]) -> None:
    whole, sparse = dropping(drop_threshold=0), dropping()
    for r in (whole, sparse):
        r.open()
        push(r, 0)
        push(r, 1000, 5, 10)
        r.run()
    assert grids(whole) == [(0, 16), (1000, 16)]
    assert grids(sparse) == [(0, 16), (1000, 2)]
    facts = [
        session(r).trunk.facts.of(np.arange(block.first, block.first + block.tokens))
        for r in (whole, sparse)
        for block in session(r).trunk.blocks[-1:]
    ]
    assert facts[1]["patch"].tolist() == [5, 10]
    assert facts[1]["grid"].tolist() == [1, 1]
    assert facts[1]["position"].tolist() == facts[0]["position"][[5, 10]].tolist()
    assert session(sparse).timeline.clock == session(whole).timeline.clock


def test_a_kept_patch_has_the_features_of_its_place(dropping: Callable[..., Rig]) -> None:
    """In the first layer, keys are those of the whole frame."""
    keys = []
    for threshold in (0, THRESHOLD):
        r = dropping(drop_threshold=threshold)
        r.open()
        push(r, 0)
        push(r, 1000, *range(1, 16))
        r.run()
        block = session(r).trunk.blocks[-1]
        slots = r.engine.pool.slots_of(block.pages)[0, 0, : block.tokens]
        keys.append(r.engine.pool.store.keys[0, 0, slots])
    np.testing.assert_allclose(keys[1].numpy(), keys[0].numpy()[1:], atol=1e-5)


def test_a_frame_like_the_last_costs_nothing_but_time_goes_on(
    dropping: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    r = dropping()
    encoded: list[int] = []
    encode = r.engine._eye.encode

    def counting(pictures: list[NDArray[np.uint8]], *changes: Any) -> list[Features]:
        encoded.append(len(pictures))
        return encode(pictures, *changes)

    monkeypatch.setattr(r.engine._eye, "encode", counting)
    r.open()
    for n in range(4):
        push(r, n * 1000)
    r.ask(at_ms=3000, remember=False)
    r.run()
    assert r.outcomes() == ["prefilled", *["dropped_similar"] * 3]
    assert encoded == [1]
    assert grids(r) == [(0, 16)]
    (started,) = r.said(QuestionStarted)
    assert started.as_of_ms == 3000
    clock = session(r).timeline.clock
    assert clock.segment is not None
    assert clock.segment.last_ms == 3000


def test_what_a_frame_looks_like_is_believed_where_it_is_told(dropping: Callable[..., Rig]) -> None:
    """Whoever decodes a picture may take its look at once; one that does not fit the picture is refused."""
    r = dropping()
    r.open()
    push(r, 0)
    told = means(Image.fromarray(changed(1, 5, 10)))
    push(r, 1000, look=told)
    push(r, 2000, 3, look=told)
    push(r, 3000, look=told[:-1])
    r.run()
    assert r.outcomes() == ["dropped_invalid", "prefilled", "prefilled", "dropped_similar"]
    assert grids(r) == [(0, 16), (1000, 2)]


def test_a_question_never_waits_behind_a_frame_that_is_beyond_it(dropping: Callable[..., Rig]) -> None:
    r = dropping()
    r.open()
    push(r, 0)
    r.run()
    r.ask(at_ms=500)
    push(r, 1000)
    r.run()
    (started,) = r.said(QuestionStarted)
    assert started.as_of_ms == 0
    assert r.said(QuestionDone)


def test_what_a_lost_frame_would_have_brought_comes_with_the_next(dropping: Callable[..., Rig]) -> None:
    r = dropping()
    r.open()
    push(r, 0)
    r.run()
    push(r, 1000, 3, deadline=-1.0)
    push(r, 2000, 3)
    push(r, 3000, 3)
    r.run()
    assert r.outcomes() == ["prefilled", "dropped_late", "prefilled", "dropped_similar"]
    assert grids(r) == [(0, 16), (2000, 1)]


def test_a_frame_without_a_place_leaves_the_trunk_as_it_was(dropping: Callable[..., Rig]) -> None:
    """Policy full has no room: what was dropped is not taken for seen."""
    r = dropping()
    r.open(policy="full", budget_tokens=256)
    for n in range(40):
        push(r, n * 1000, seed=n)
    r.run()
    last = r.outcomes().index("dropped_full")
    assert set(r.outcomes()[last:]) == {"dropped_full"}


def test_a_camera_that_stands_still_is_written_again_before_it_leaves_the_window(dropping: Callable[..., Rig]) -> None:
    """Every patch of the last picture is in the trunk at any time, however small the trunk is."""
    r = dropping()
    r.open(budget_tokens=320)
    for n in range(120):
        push(r, n * 1000, *([n % 16] if n % 3 == 0 else []))
        r.run()
        facts = session(r).trunk.facts
        ids = np.concatenate([np.arange(b.first, b.first + b.tokens) for b in session(r).trunk.blocks if b.grid >= 0])
        assert set(facts.of(ids)["patch"].tolist()) == set(range(16)), f"after {n} frames"
    assert r.outcomes().count("prefilled") == 103
    assert session(r).trunk.share.held * r.engine.pool.page_size <= 320


def test_one_of_ten_frames_is_written_whole_unless_another_number_is_asked_for(rig: Callable[..., Rig]) -> None:
    for settings, tokens in (({}, [16, 16, 16]), ({"drop_whole": 7}, [16] * 4), ({"drop_whole": 0}, [16])):
        r = rig(drop_threshold=THRESHOLD, **settings)
        r.open()
        for n in range(22):
            push(r, n * 1000)
        r.run()
        assert [size for _, size in grids(r)] == tokens


def test_time_that_only_passes_stays_within_the_trained_length(dropping: Callable[..., Rig]) -> None:
    r = dropping(trained_length=192)
    r.open()
    for n in range(600):
        push(r, n * 1000)
        r.run(check=n % 20 == 0)
        timeline = session(r).timeline
        assert timeline.clock.next + timeline.bounds.reserve <= timeline.bounds.trained_length
    r.ask(at_ms=599_000, wait_until=FAR)
    r.run()
    assert r.done().finish_reason in ("stop", "length")


def test_positions_of_a_sparse_grid_close_no_gap_that_is_none(dropping: Callable[..., Rig]) -> None:
    """The trunk is moved down as a whole although the last patch stands far from the one before it."""
    r = dropping()
    r.open()
    push(r, 0)
    push(r, 1000, 15)
    r.run()
    trunk, clock = session(r).trunk, session(r).timeline.clock
    assert trunk.close_gaps(clock.segment.base if clock.segment else clock.next) == 0


def test_every_frame_is_told_about_once(dropping: Callable[..., Rig]) -> None:
    r = dropping()
    r.open()
    chance = np.random.default_rng(3)
    for n in range(60):
        push(
            r,
            n * 1000,
            *chance.choice(16, chance.integers(0, 3), replace=False),
            deadline=float(chance.integers(-1, 2)),
        )
        if n % 3 == 0:
            r.run()
    r.run()
    assert [event.sequence for event in r.said(FrameTaken)] == list(range(1, 61))
    assert set(r.outcomes()) == {"prefilled", "dropped_late", "dropped_similar"}


@pytest.fixture(scope="module")
def windowed(tiny_qwen25vl: Callable[..., Any]) -> Checkpoint:
    """Pictures of four windows, which one block of whole attention hears of together."""
    return open_checkpoint(tiny_qwen25vl(seed=6, vision={"window_size": 56}).folder)


def test_windows_that_stand_still_are_not_encoded_and_nothing_else_changes(windowed: Checkpoint) -> None:
    """With one block of whole attention what stands still is exact: both trunks have the same keys."""
    keys = []
    for afterimages in (None, 0):
        r = Rig(windowed, EngineSettings(drop_threshold=THRESHOLD, afterimages=afterimages, pool_tokens=1024))
        r.open()
        for n in range(6):
            push(r, n * 1000, *range(n))
            r.run()
        blocks = [block for block in session(r).trunk.blocks if block.grid >= 0]
        assert [block.tokens for block in blocks] == [16, 1, 1, 1, 1, 1]
        slots = np.concatenate([r.engine.pool.slots_of(block.pages)[0, 0, : block.tokens] for block in blocks])
        keys.append(r.engine.pool.store.keys[-1, 0, slots])
        told = r.engine.device.eye.share(Change("s", np.array([4])), 4, 4)
        assert told == (0.25 if afterimages is None else 1.0)
    np.testing.assert_allclose(keys[0].numpy(), keys[1].numpy(), atol=1e-4)


def test_a_frame_that_has_to_bring_more_is_encoded_again(windowed: Checkpoint) -> None:
    """The frame before it was encoded together with it, and is lost."""
    r = Rig(windowed, EngineSettings(drop_threshold=THRESHOLD, pool_tokens=1024, step_pictures=4))
    r.open()
    push(r, 0)
    r.run()
    push(r, 1000, 0, deadline=5.0)
    push(r, 2000, 0, 15)
    waiting = list(session(r).frames)
    r.engine._stepper._encode(waiting)
    assert [frame.patches.tolist() for frame in waiting if frame.patches is not None] == [[0], [15]]
    r.now = 6.0
    r.run()
    assert r.outcomes() == ["prefilled", "dropped_late", "prefilled"]
    assert grids(r) == [(0, 16), (2000, 2)]


@pytest.mark.parametrize(("wanted", "threshold", "kept"), [(None, 6, 0), (None, 0, 16), (False, 6, 16), (True, 0, 0)])
def test_a_session_may_ask_for_dropping_or_against_it(
    rig: Callable[..., Rig], wanted: bool | None, threshold: int, kept: int
) -> None:
    r = rig(drop_threshold=threshold)
    r.open(dropping=wanted)
    for n in range(2):
        push(r, n * 1000)
    r.run()
    assert [tokens for _, tokens in grids(r)] == ([16, 16] if kept else [16])


def test_what_frames_take_is_told_of_what_whole_ones_would(windowed: Checkpoint) -> None:
    r = Rig(windowed, EngineSettings(drop_threshold=THRESHOLD, drop_whole=0, pool_tokens=1024, picture_tokens=16.0))
    assert r.engine.stats.effort == 1.0
    r.open()
    push(r, 0)
    r.run()
    assert r.engine.stats.effort == pytest.approx(1.0)
    for n in range(1, 80):
        push(r, n * 1000, *([3] if n % 2 else []))
        r.run()
    one_patch = (1 / 16 + 1 / 4) / 2
    assert one_patch <= r.engine.stats.effort < 2 * one_patch  # what is about to leave the trunk comes again
    for n in range(80, 160):
        push(r, n * 1000, *([3] if n == 80 else []))
        r.run()
    assert r.engine.stats.effort < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_dropping_makes_the_host_wait_for_nothing(tiny_qwen25vl: Callable[..., Any]) -> None:
    folder = tiny_qwen25vl(seed=6, vision={"window_size": 56}).folder
    settings = EngineSettings(drop_threshold=THRESHOLD, pool_tokens=4096)
    r = Rig(open_checkpoint(folder, "cuda", torch.bfloat16), settings)
    for name in ("a", "b"):
        r.open(name)
        push(r, 0, session_id=name)
    r.run()
    r.engine.warm()
    with without_waiting():
        for n in range(1, 8):
            push(r, n * 1000, n, session_id="a")
            push(r, n * 1000, 2 * n, 1, session_id="b")
            r.run(check=False)
    assert r.outcomes() == ["prefilled"] * 16
