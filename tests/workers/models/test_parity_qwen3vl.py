"""Our Qwen3-VL, dense and of experts, against transformers': same weights, pixels and explicit positions."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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
    stream_of,
)
from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.models.decoder import Deepstack, placed

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", params=["dense", "experts"])
def tiny(request: pytest.FixtureRequest, tiny_qwen3vl: Callable[..., Any]) -> Any:
    return tiny_qwen3vl(seed=0, experts=request.param == "experts")


@pytest.fixture(scope="module")
def ours(tiny: Any) -> Checkpoint:
    return open_checkpoint(tiny.folder)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def reference_tokens(tiny: Any, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    seen = tiny.reference.model.visual(patches, torch.tensor([grid]))
    return torch.cat((seen.pooler_output, *seen.deepstack_features), dim=-1)


@pytest.mark.parametrize("grid", [(1, 16, 16), (1, 8, 8), (1, 6, 6), (1, 10, 22), (1, 2, 2), (3, 4, 6), (1, 2, 20)])
def test_vision_tower(tiny: Any, ours: Checkpoint, grid: tuple[int, int, int]) -> None:
    times, height, width = grid
    patches = noise(ours, 3, times * height * width)
    tokens = ours.model.vision(patches[None], grid)[0]
    assert tokens.shape == (times * height * width // 4, 3 * 128)
    assert distance(tokens, reference_tokens(tiny, patches, grid)) < TOLERANCE / 10


def test_pictures_in_a_batch_do_not_see_each_other(ours: Checkpoint) -> None:
    batch = torch.stack([noise(ours, seed, 10 * 22) for seed in range(4)])
    together = ours.model.vision(batch, (1, 10, 22))
    for alone, picture in zip(batch, together, strict=True):
        assert distance(ours.model.vision(alone[None], (1, 10, 22))[0], picture) < TOLERANCE / 10


def test_a_single_picture_stands_for_its_repetition(ours: Checkpoint) -> None:
    single = torch.randn(2, 64, 3, 1, 256, generator=torch.Generator().manual_seed(1))
    repeated = single.expand(2, 64, 3, 2, 256).flatten(2)
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


def test_a_video_is_laid_out_as_the_familys_own_processor_does(tiny: Any, ours: Checkpoint) -> None:
    """Timestamps, tokens and every position of a video: equal to those of transformers, and so the logits."""
    import transformers

    kind: Any = transformers.Qwen3VLProcessor
    times, grid = (0, 1000, 2300, 12_000), (4, 8, 12)
    spans = [ours.chat.header()]
    for time_ms in times:
        spans.append(ours.chat.frame(spans[-1].clock, time_ms, 4, 6))
    spans.append(ours.chat.question(spans[-1].clock, "Is there a dog?"))
    stream = stream_of(spans, [noise(ours, 1, 4 * 96)], [grid])

    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_token="<|video_pad|>",
        _calculate_timestamps=lambda *given: kind._calculate_timestamps(None, *given),
    )
    repeated = [time_ms for time_ms in times for _ in range(2)]
    metadata = SimpleNamespace(fps=1000, frames_indices=repeated)
    inputs = {"video_grid_thw": np.array([grid]), "video_metadata": [metadata]}
    written = kind.replace_video_token(processor, inputs, 0)
    header, question = ours.chat.header(), ours.chat.question(ours.chat.header().clock, "Is there a dog?")
    expected = [*header.tokens.tolist(), *_encoded(ours, written), *question.tokens.tolist()]
    assert stream.tokens.tolist() == expected

    kinds = (stream.tokens == ours.tokenizer.special.video_pad).int() * 2
    theirs, _ = tiny.reference.model.get_rope_index(
        input_ids=stream.tokens[None], mm_token_type_ids=kinds[None], video_grid_thw=torch.tensor([grid])
    )
    assert torch.equal(theirs[:, 0], stream.positions)
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE


def _encoded(ours: Checkpoint, text: str) -> list[int]:
    """Text in which special tokens are spelled out."""
    pieces = text.replace("<|", "\0<|").replace("|>", "|>\0").split("\0")
    special = {
        f"<|{name}|>": getattr(ours.tokenizer.special, name) for name in ("vision_start", "vision_end", "video_pad")
    }
    return [
        token for piece in pieces for token in ([special[piece]] if piece in special else ours.tokenizer.encode(piece))
    ]


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


@pytest.mark.parametrize("experts", [False, True])
def test_live_stream_with_tied_embeddings(tiny_qwen3vl: Callable[..., Any], experts: bool) -> None:
    tiny = tiny_qwen3vl(seed=4, tied=True, experts=experts)
    ours = open_checkpoint(tiny.folder)
    stream = live_stream(ours)
    assert ours.model.decoder.lm_head is None
    assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE


def test_other_shapes(tiny_qwen3vl: Callable[..., Any]) -> None:
    """Heads wider than the hidden state, other splits of frequencies, more levels; all experts, or one a token."""
    rope = {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [12, 8, 4], "mrope_interleaved": True}
    text = {"head_dim": 48, "rope_parameters": rope, "num_hidden_layers": 4}
    vision = {"deepstack_visual_indexes": [0, 1, 3], "num_position_embeddings": 100}
    for experts, chosen in ((False, 2), (True, 1), (True, 6)):
        tiny = tiny_qwen3vl(seed=8, text=text | {"num_experts_per_tok": chosen}, vision=vision, experts=experts)
        ours = open_checkpoint(tiny.folder)
        stream = live_stream(ours)
        assert distance(our_logits(ours, stream), reference_logits(tiny, stream)) < TOLERANCE, (experts, chosen)


def test_only_the_wanted_rows_are_computed_to_the_end(ours: Checkpoint) -> None:
    stream, decoder = live_stream(ours), ours.model.decoder
    rotation, (embeds, deepstack) = decoder.rope.rotation(stream.positions), embeds_of(ours, stream)
    wanted = torch.tensor([3, len(embeds) - 1])
    whole, rows = (decoder(embeds, rotation, Memory().attend, rows, deepstack) for rows in (None, wanted))
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


def test_tokens_that_are_not_kept_take_their_deep_features_along(tiny: Any, ours: Checkpoint) -> None:
    """One index picks tokens and all that belongs to them; transformers is given each level picked by itself."""
    special, patches, decoder = ours.tokenizer.special, noise(ours, 5, 96), ours.model.decoder
    keep = torch.tensor(sorted(random.Random(2).sample(range(24), 10)))
    text = [special.vision_start, *[special.video_pad] * 10, special.vision_end, *ours.tokenizer.encode("And?")]
    positions = torch.arange(len(text)).expand(3, -1)
    tokens = ours.model.vision(patches[None], (1, 8, 12))[0, keep]
    embeds, deepstack = placed(decoder.embed(torch.tensor(text)), torch.arange(1, 11), tokens)
    hidden = decoder(embeds, decoder.rope.rotation(positions), Memory().attend, None, deepstack)

    seen = tiny.reference.model.visual(patches, torch.tensor([(1, 8, 12)]))
    given = decoder.embed(torch.tensor(text))
    given[1:11] = seen.pooler_output[keep]
    pads = torch.tensor(text)[None] == special.video_pad
    expected = tiny.reference.model.language_model(
        inputs_embeds=given[None],
        position_ids=positions[:, None],
        visual_pos_masks=pads,
        deepstack_visual_embeds=[level[keep] for level in seen.deepstack_features],
        use_cache=False,
    ).last_hidden_state[0]
    assert distance(hidden, expected) < TOLERANCE


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
        for patch in random.Random(grid).sample(range(len(patches)), 4):
            changed = [kept.clone() for kept in stream.patches]
            changed[grid][patch] = noise(ours, 99, 1)
            other = Stream(stream.tokens, stream.positions, changed, stream.grids)
            assert distance(our_logits(ours, other), before) > VISIBLE, (grid, patch)


def test_one_missing_deepstack_level_is_visible(ours: Checkpoint) -> None:
    """For all tokens, and for a single token of a single level."""
    stream, decoder = live_stream(ours), ours.model.decoder
    rotation, (embeds, deepstack) = decoder.rope.rotation(stream.positions), embeds_of(ours, stream)
    assert deepstack is not None

    def logits(features: Tensor) -> Tensor:
        given = Deepstack(deepstack.rows, features)
        return decoder.logits(decoder(embeds, rotation, Memory().attend, None, given))

    before = logits(deepstack.features)
    for level in (slice(0, 128), slice(128, 256)):
        for row in (None, *random.Random(3).sample(range(len(deepstack.rows)), 8)):
            without = deepstack.features.clone()
            without[slice(None) if row is None else slice(row, row + 1), level] = 0
            assert distance(logits(without), before) > VISIBLE, (level, row)
    swapped = torch.cat(deepstack.features.chunk(2, dim=-1)[::-1], dim=-1)
    assert distance(logits(swapped), before) > VISIBLE
