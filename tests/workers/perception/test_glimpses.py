"""Pictures of which only the windows are computed in which something is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.perception.glimpses import TOGETHER, Change, Glimpse
from workers.perception.vision import Eye, Features

pytestmark = pytest.mark.unit

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SIDE, LANES = 112, 4  # pictures of 4 x 4 merged patches in windows of 2 x 2
CORNER = [0, 1, 4, 5]  # the first window's patches

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=GPU)])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def checkpoint(tiny_qwen25vl: Callable[..., Any], device: str) -> Checkpoint:
    """One block of whole attention, behind which nothing is heard of other windows: what stands still is exact."""
    return open_checkpoint(tiny_qwen25vl(seed=2, vision={"window_size": 56}).folder, device)


@pytest.fixture(scope="module")
def deep(tiny_qwen25vl: Callable[..., Any], device: str) -> Checkpoint:
    """Two blocks of whole attention: the second asks windows that stand still for what they had heard before."""
    shape = {"window_size": 56, "depth": 6, "fullatt_block_indexes": [2, 5]}
    return open_checkpoint(tiny_qwen25vl(seed=2, vision=shape).folder, device)


def picture(seed: int, height: int = SIDE, width: int = SIDE) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def changed(shown: Picture, *patches: int) -> Picture:
    """With some merged patches inverted."""
    shown = shown.copy()
    for patch in patches:
        top, left = (28 * place for place in divmod(patch, LANES))
        shown[top : top + 28, left : left + 28] = 255 - shown[top : top + 28, left : left + 28]
    return shown


def change(stream: str, *patches: int) -> Change:
    return Change(stream, np.array(patches))


def whole(checkpoint: Checkpoint, shown: Sequence[Picture]) -> list[Features]:
    return Eye(checkpoint.model.vision, checkpoint.pixels).encode(shown)


def assert_same(features: Features, expected: Features, patches: Sequence[int]) -> None:
    tight = 1e-5 if features.tokens.device.type == "cpu" else 1e-3
    torch.testing.assert_close(features.tokens[list(patches)], expected.tokens[list(patches)], atol=tight, rtol=tight)


def test_a_first_picture_is_seen_whole(checkpoint: Checkpoint) -> None:
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=2)
    (features,) = eye.encode([picture(1)], [change("a", 0)])
    assert features.seen is not None
    assert features.seen.all()
    assert_same(features, whole(checkpoint, [picture(1)])[0], range(16))


def test_what_changed_is_as_if_all_had_been_computed(checkpoint: Checkpoint) -> None:
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=2)
    shown = [picture(1), changed(picture(1), 0), changed(picture(1), 0, 15)]
    wanted = [Change("a", None), change("a", 0), change("a", 15)]
    seen = [eye.encode([each], [what])[0] for each, what in zip(shown, wanted, strict=True)]
    expected = whole(checkpoint, shown)
    assert_same(seen[1], expected[1], CORNER)
    assert_same(seen[2], expected[2], [10, 11, 14, 15])
    for features, patches in zip(seen[1:], (CORNER, [10, 11, 14, 15]), strict=True):
        assert features.seen is not None
        assert np.flatnonzero(features.seen).tolist() == patches
        assert features.tell(np.array(patches))
        assert not features.tell(np.array([2]))
        assert not features.tell(None)


def test_what_was_not_wanted_is_not_looked_at(checkpoint: Checkpoint) -> None:
    """A change that nobody wants does not show: its window's keys and values are those of before."""
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=2)
    eye.encode([picture(1)], [Change("a", None)])
    (features,) = eye.encode([changed(picture(1), 0, 15)], [change("a", 0)])
    assert_same(features, whole(checkpoint, [changed(picture(1), 0)])[0], CORNER)


def test_beyond_the_second_block_of_whole_attention_it_is_nearly_so(deep: Checkpoint) -> None:
    eye = Eye(deep.model.vision, deep.pixels, streams=2)
    eye.encode([picture(1)], [Change("a", None)])
    shown = changed(picture(1), 0)
    (features,) = eye.encode([shown], [change("a", 0)])
    (expected,), (before,) = whole(deep, [shown]), whole(deep, [picture(1)])
    off = (features.tokens[CORNER] - expected.tokens[CORNER]).norm()
    assert 0 < off < 0.2 * (before.tokens[CORNER] - expected.tokens[CORNER]).norm()


def test_how_much_has_to_be_encoded(checkpoint: Checkpoint) -> None:
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=2)
    wanted = [None, Change("a", None), change("a", 0), change("a", 0, 1, 5), change("a", 0, 15)]
    assert [eye.share(each, LANES, LANES) for each in wanted] == [1.0, 1.0, 0.25, 0.25, 0.5]
    assert eye.share(change("a", 0), 2, LANES) == 1.0
    assert Eye(checkpoint.model.vision, checkpoint.pixels).share(change("a", 0), LANES, LANES) == 1.0


def test_streams_do_not_see_each_other(checkpoint: Checkpoint) -> None:
    """However they are batched, and whoever else is looked at; more pictures than one batch takes."""
    names = [f"s{n}" for n in range(TOGETHER + 3)]
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=len(names))
    first = [picture(n) for n in range(len(names))]
    eye.encode(first, [Change(name, None) for name in names])
    patches = [[n % 16] if n % 3 else [n % 16, (5 * n + 7) % 16] for n in range(len(names))]
    then = [changed(shown, *which) for shown, which in zip(first, patches, strict=True)]
    together = eye.encode(then, [change(name, *which) for name, which in zip(names, patches, strict=True)])
    for features, expected, which in zip(together, whole(checkpoint, then), patches, strict=True):
        assert_same(features, expected, which)


def test_pictures_of_one_stream_are_looked_at_one_after_the_other(checkpoint: Checkpoint) -> None:
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=2)
    shown = [picture(1), changed(picture(1), 0), changed(picture(1), 0, 15)]
    seen = eye.encode(shown, [Change("a", None), change("a", 0), change("a", 15)])
    expected = whole(checkpoint, shown)
    wanted = [list(range(16)), CORNER, [10, 11, 14, 15]]
    for features, each, patches in zip(seen, expected, wanted, strict=True):
        assert_same(features, each, patches)


def test_what_was_wanted_has_been_picked_out(checkpoint: Checkpoint) -> None:
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=3)
    shown = [picture(n) for n in range(3)]
    seen = eye.encode(shown, [change("a", 3, 9), Change("b", None), change("c", 12)])
    for features, patches in zip(seen, ([3, 9], None, [12]), strict=True):
        assert (features.kept is None) == (patches is None)
        for asked in (patches, [0, 3, 9, 12], [12]):
            expected = features.tokens if asked is None else features.tokens[asked]
            torch.testing.assert_close(
                features.of(None if asked is None else np.array(asked)), expected, atol=0, rtol=0
            )


def test_streams_of_which_more_is_to_come_go_first(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the last one's second picture would be a batch of its own."""
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=TOGETHER + 1)
    assert eye._glimpses is not None
    batches, batch = [], eye._glimpses._batch

    def counted(pictures: Sequence[Picture], changes: Sequence[Change]) -> list[Glimpse]:
        batches.append([each.stream for each in changes])
        return batch(pictures, changes)

    monkeypatch.setattr(eye._glimpses, "_batch", counted)
    names = [f"s{n}" for n in range(TOGETHER + 1)]
    eye.encode([picture(n) for n in range(TOGETHER + 2)], [Change(name, None) for name in [*names, names[-1]]])
    assert batches == [[names[-1], *names[:-2]], [names[-2], names[-1]]]


def test_who_was_forgotten_is_seen_whole_again(checkpoint: Checkpoint) -> None:
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=TOGETHER)
    for n in range(TOGETHER + 1):
        eye.encode([picture(n)], [Change(f"s{n}", None)])
    forgotten, known = (eye.encode([picture(n)], [change(f"s{n}", 3)])[0] for n in (0, TOGETHER))
    assert forgotten.seen is not None
    assert known.seen is not None
    assert (forgotten.seen.sum(), known.seen.sum()) == (16, 4)
    assert_same(forgotten, whole(checkpoint, [picture(0)])[0], range(16))


def test_other_shapes_and_pictures_without_a_change_are_encoded_whole(checkpoint: Checkpoint) -> None:
    eye = Eye(checkpoint.model.vision, checkpoint.pixels, streams=2)
    shown = [picture(0), picture(1, 56, 112), picture(2)]
    seen = eye.encode(shown, [None, change("a", 0), Change("b", None)])
    for features, expected in zip(seen, whole(checkpoint, shown), strict=True):
        assert_same(features, expected, range(len(expected.tokens)))
    assert [features.seen is None for features in seen] == [True, True, False]


def test_a_tower_without_windows_remembers_nothing(tiny_qwen25vl: Callable[..., Any], device: str) -> None:
    plain = open_checkpoint(tiny_qwen25vl(seed=2).folder, device)
    eye = Eye(plain.model.vision, plain.pixels, streams=2)
    (features,) = eye.encode([picture(1)], [change("a", 0)])
    assert features.seen is None
