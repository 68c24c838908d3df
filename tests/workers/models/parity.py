"""Runs our models and transformers' on the same streams, for comparison."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.chat import Span
from workers.models.checkpoint import Checkpoint
from workers.models.decoder import Deepstack, placed

TOLERANCE = 1e-4
VISIBLE = 100 * TOLERANCE
LIVE_FRAMES = (
    *((0, 8, 8), (1000, 8, 8), (2500, 8, 8), (3000, 8, 8), (3250, 8, 8), (3750, 8, 8)),
    *((63_500, 8, 8), (63_750, 8, 8), (64_000, 10, 22), (65_000, 10, 22), (66_000, 4, 6)),
)


class Memory:
    """Keys and values of one sequence, and causal attention over them."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer in self._kept:
            past_k, past_v = self._kept[layer]
            k, v = torch.cat((past_k, k)), torch.cat((past_v, v))
        self._kept[layer] = k, v
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        q, k, v = (part.transpose(0, 1) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(0, 1)


@dataclass
class Stream:
    """A packed sequence: tokens [n], positions [3, n], each grid's patches [h * w, patch_dim] and shape."""

    tokens: Tensor
    positions: Tensor
    patches: list[Tensor]
    grids: list[tuple[int, int, int]]


def stream_of(spans: list[Span], patches: list[Tensor], grids: list[tuple[int, int, int]]) -> Stream:
    tokens = torch.from_numpy(np.concatenate([span.tokens for span in spans]))
    positions = torch.from_numpy(np.concatenate([span.positions for span in spans], axis=1))
    return Stream(tokens, positions, patches, grids)


def embeds_of(ours: Checkpoint, stream: Stream) -> tuple[Tensor, Deepstack | None]:
    embeds = ours.model.decoder.embed(stream.tokens)
    if not stream.patches:
        return embeds, None
    special = ours.tokenizer.special
    (pads,) = torch.where((stream.tokens == special.video_pad) | (stream.tokens == special.image_pad))
    pairs = zip(stream.patches, stream.grids, strict=True)
    return placed(embeds, pads, torch.cat([ours.model.vision(patches[None], grid)[0] for patches, grid in pairs]))


def our_logits(ours: Checkpoint, stream: Stream, cuts: list[int] | None = None) -> Tensor:
    (embeds, deepstack), memory, decoder = embeds_of(ours, stream), Memory(), ours.model.decoder
    bounds = [0, *(cuts or []), len(embeds)]
    hidden = []
    for start, end in itertools.pairwise(bounds):
        rotation = decoder.rope.rotation(stream.positions[:, start:end])
        hidden.append(decoder(embeds[start:end], rotation, memory.attend, None, between(deepstack, start, end)))
    return decoder.logits(torch.cat(hidden))


def between(deepstack: Deepstack | None, start: int, end: int) -> Deepstack | None:
    """The part that falls on tokens `start` to `end` - 1."""
    if deepstack is None:
        return None
    inside = (deepstack.rows >= start) & (deepstack.rows < end)
    return Deepstack(deepstack.rows[inside] - start, deepstack.features[inside])


def reference_logits(tiny: Any, stream: Stream, kind: str = "video") -> Tensor:
    pixels = {
        "video": ("pixel_values_videos", "video_grid_thw"),
        "image": ("pixel_values", "image_grid_thw"),
    }[kind]
    inputs = (torch.cat(stream.patches), torch.tensor(stream.grids)) if stream.patches else (None, None)
    output = tiny.reference(
        input_ids=stream.tokens[None],
        position_ids=stream.positions[:, None],
        use_cache=False,
        **dict(zip(pixels, inputs, strict=True)),
    )
    logits: Tensor = output.logits[0]
    return logits


def reference_tokens(tiny: Any, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """What the vision tower makes of patches [times * height * width, patch_dim]: [tokens, hidden], and beside it the
    features for deep layers, where the family has them.
    """
    seen = tiny.reference.model.visual(patches, torch.tensor([grid]))
    return torch.cat((seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())), dim=-1)


def distance(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def noise(ours: Checkpoint, seed: int, patches: int) -> Tensor:
    return torch.randn(patches, ours.config.vision.patch_dim, generator=torch.Generator().manual_seed(seed))


def live_stream(ours: Checkpoint) -> Stream:
    """What a session sees: system turn, frames, a question and its answer, frames of other sizes, a question."""
    chat = ours.chat
    spans, patches, grids = [chat.header()], [], []
    for time_ms, height, width in LIVE_FRAMES:
        if time_ms == 2500:
            spoken = ours.tokenizer.encode("A red ball.")
            spans.append(chat.remembered(spans[-1].clock, "What is on the table now?", spoken))
        cut = time_ms == 3750
        spans.append(chat.frame(spans[-1].clock, time_ms, height // 2, width // 2, scene_change=cut))
        patches.append(noise(ours, time_ms, height * width))
        grids.append((1, height, width))
    spans.append(chat.question(spans[-1].clock, "How many people walked past?"))
    return stream_of(spans, patches, grids)
