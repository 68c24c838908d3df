"""Our models against transformers': same weights, pixels and explicit positions, float32 on the CPU."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from tests.workers.models.parity import (
    TOLERANCE,
    VISIBLE,
    Memory,
    Stream,
    distance,
    embeds_of,
    live_stream,
    noise,
    our_logits,
    reference_logits,
    reference_tokens,
    stream_of,
)
from workers.models.checkpoint import Checkpoint, open_checkpoint

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("no_gradients")]


@pytest.fixture(scope="module", params=["qwen25vl", "qwen3vl", "qwen3vl_moe"])
def make(
    request: pytest.FixtureRequest, tiny_qwen25vl: Callable[..., Any], tiny_qwen3vl: Callable[..., Any]
) -> Callable[..., Any]:
    """Makes tiny models of one family."""
    made: dict[str, Callable[..., Any]] = {
        "qwen25vl": tiny_qwen25vl,
        "qwen3vl": tiny_qwen3vl,
        "qwen3vl_moe": partial(tiny_qwen3vl, experts=True),
    }
    return made[request.param]


@pytest.fixture(scope="module")
def tiny(make: Callable[..., Any]) -> Any:
    return make(seed=0)


GRIDS = [
    *((1, 16, 16), (1, 8, 8), (1, 6, 6), (1, 10, 22), (1, 2, 2), (1, 20, 8), (1, 16, 24), (1, 2, 20)),
    *((2, 4, 6), (3, 4, 6), (3, 18, 34)),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_vision_tower(tiny: Any, ours: Checkpoint, grid: tuple[int, int, int]) -> None:
    times, height, width = grid
    patches = noise(ours, 3, times * height * width)
    tokens, expected = ours.model.vision(patches[None], grid)[0], reference_tokens(tiny, patches, grid)
    assert tokens.shape == expected.shape
    assert distance(tokens, expected) < TOLERANCE / 10


def test_pictures_in_a_batch_do_not_see_each_other(ours: Checkpoint) -> None:
    batch = torch.stack([noise(ours, seed, 10 * 22) for seed in range(4)])
    together = ours.model.vision(batch, (1, 10, 22))
    for alone, picture in zip(batch, together, strict=True):
        assert distance(ours.model.vision(alone[None], (1, 10, 22))[0], picture) < TOLERANCE / 10


def test_a_single_picture_stands_for_its_repetition(ours: Checkpoint) -> None:
    points = ours.config.vision.patch_size**2
    single = torch.randn(2, 64, 3, 1, points, generator=torch.Generator().manual_seed(1))
    repeated = single.expand(2, 64, 3, 2, points).flatten(2)
    short = ours.model.vision(single.flatten(2), (1, 8, 8))
    assert distance(short, ours.model.vision(repeated, (1, 8, 8))) < TOLERANCE / 10


def test_text(tiny: Any, ours: Checkpoint) -> None:
    header = ours.chat.header("Look out for dogs.")
    stream = stream_of([header, ours.chat.question(header.clock, "Is there a dog?")], [], [])
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE


def test_images_numbered_by_transformers_itself(tiny: Any, ours: Checkpoint) -> None:
    special, encode = ours.tokenizer.special, ours.tokenizer.encode
    grids = [(1, 8, 12), (1, 10, 6)]
    tokens = torch.tensor(
        [
            *[*encode("user\n"), special.vision_start, *[special.image_pad] * 24, special.vision_end],
            *[*encode("and"), special.vision_start, *[special.image_pad] * 15, special.vision_end, *encode("?")],
        ]
    )
    kinds = (tokens == special.image_pad).int()
    positions, _ = tiny.reference.model.get_rope_index(tokens[None], kinds[None], image_grid_thw=torch.tensor(grids))
    stream = Stream(tokens, positions[:, 0], [noise(ours, 1, 96), noise(ours, 2, 60)], grids)
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream, "image")) < TOLERANCE


def test_live_stream_whole(tiny: Any, ours: Checkpoint) -> None:
    stream = live_stream(ours)
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE


def test_live_stream_in_chunks(tiny: Any, ours: Checkpoint) -> None:
    stream = live_stream(ours)
    expected = reference_logits(tiny, stream)
    chance = random.Random(7)
    for _ in range(4):
        cuts = sorted(chance.sample(range(1, len(stream.tokens)), 9))
        assert distance(our_logits(ours, stream, cuts), expected) < TOLERANCE


def test_live_stream_with_tied_embeddings(make: Callable[..., Any]) -> None:
    tiny = make(seed=4, tied=True)
    ours = open_checkpoint(tiny.folder)
    stream = live_stream(ours)
    assert ours.model.decoder.lm_head is None
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE


def test_only_the_wanted_rows_are_computed_to_the_end(ours: Checkpoint) -> None:
    stream, decoder = live_stream(ours), ours.model.decoder
    rotation, (embeds, deepstack) = decoder.rope.rotation(stream.positions), embeds_of(ours, stream)
    wanted = torch.tensor([3, len(embeds) - 1])
    whole, rows = (decoder(embeds, rotation, Memory().attend, rows, deepstack) for rows in (None, wanted))
    assert rows.shape == (2, embeds.shape[1])
    assert distance(whole[wanted], rows) < TOLERANCE / 10
    assert decoder(embeds, rotation, Memory().attend, slice(0, 0), deepstack).shape == (0, embeds.shape[1])


def test_greedy_answers_are_equal(tiny: Any, ours: Checkpoint) -> None:
    stream, decoder, memory = live_stream(ours), ours.model.decoder, Memory()
    (embeds, deepstack), positions = embeds_of(ours, stream), stream.positions
    taken = Stream(stream.tokens, stream.positions, stream.patches, stream.grids)
    for _ in range(12):
        hidden = decoder(embeds, decoder.rope.rotation(positions), memory.attend, slice(-1, None), deepstack)
        token = decoder.logits(hidden).argmax(dim=-1)
        assert reference_logits(tiny, taken)[-1].argmax() == token
        positions = positions[:, -1:].max() + torch.ones(3, 1, dtype=torch.long)
        embeds, deepstack = decoder.embed(token), None
        taken.tokens = torch.cat((taken.tokens, token))
        taken.positions = torch.cat((taken.positions, positions), dim=1)


def test_one_position_off_by_one_is_visible(ours: Checkpoint) -> None:
    """The comparison above can see its subject: text and grid tokens, each axis, at many places of the stream."""
    stream = live_stream(ours)
    before = our_logits(ours, stream)
    for place in random.Random(11).sample(range(len(stream.tokens) - 1), 12):
        for axis in range(3):
            positions = stream.positions.clone()
            positions[axis, place] += 1
            moved = Stream(stream.tokens, positions, stream.patches, stream.grids)
            assert distance(our_logits(ours, moved), before) > VISIBLE, (place, axis)


def test_one_changed_patch_is_visible(ours: Checkpoint) -> None:
    stream = live_stream(ours)
    before = our_logits(ours, stream)
    for grid, patches in enumerate(stream.patches):
        for patch in random.Random(grid).sample(range(len(patches)), 2):
            changed = [kept.clone() for kept in stream.patches]
            changed[grid][patch] = noise(ours, 99, 1)
            other = Stream(stream.tokens, stream.positions, changed, stream.grids)
            assert distance(our_logits(ours, other), before) > VISIBLE, (grid, patch)
