"""What Qwen3-VL alone has, dense and of experts: timestamps as text, and features for its deep layers."""

import random
from collections.abc import Callable
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

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("no_gradients")]


@pytest.fixture(scope="module", params=["dense", "experts"])
def tiny(request: pytest.FixtureRequest, tiny_qwen3vl: Callable[..., Any]) -> Any:
    return tiny_qwen3vl(seed=0, experts=request.param == "experts")


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
