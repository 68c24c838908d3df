"""A model divided among ranks computes what the whole one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.models.parity import Memory
from tests.workers.models.shapes import EXPERTS, QWEN3VL, QWEN25VL
from tests.workers.parallel.pair import at_once, share_of
from workers.core import Team
from workers.models.checkpoint import open_checkpoint
from workers.models.decoder import Decoder, Deepstack
from workers.models.errors import UnsupportedModel
from workers.models.sharding import share_of as text_share

pytestmark = pytest.mark.unit

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen25vl": ("tiny_qwen25vl", {}),
    "qwen3vl": ("tiny_qwen3vl", {}),
    "experts": ("tiny_qwen3vl", {"experts": True}),
    "tied": ("tiny_qwen25vl", {"tied": True}),
    "uneven vocabulary": ("tiny_qwen25vl", {"text": {"vocab_size": 321}}),
}


def logits(decoder: Decoder, levels: int) -> Tensor:
    chance = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 300, (11,), generator=chance)
    positions = torch.arange(11).expand(3, -1)
    features = torch.randn(4, levels * 128, generator=chance)
    deepstack = Deepstack(torch.arange(2, 6), features) if levels else None
    hidden = decoder(decoder.embed(tokens), decoder.rope.rotation(positions), Memory().attend, None, deepstack)
    return decoder.logits(hidden)


@pytest.mark.parametrize("model", MODELS)
def test_two_ranks_give_the_logits_of_one(model: str, request: pytest.FixtureRequest) -> None:
    maker, options = MODELS[model]
    folder = request.getfixturevalue(maker)(seed=5, **options).folder
    whole = open_checkpoint(folder)
    levels = len(whole.config.vision.deepstack_blocks)
    with torch.inference_mode():
        expected = logits(whole.model.decoder, levels)
    shares = at_once(2, lambda team: logits(share_of(folder, team).model.decoder, levels))
    for given in shares:
        torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(*shares)


def test_each_rank_holds_half_of_what_is_divided(tiny_qwen25vl: Callable[..., Any]) -> None:
    folder = tiny_qwen25vl(seed=5).folder
    whole = dict(open_checkpoint(folder).model.named_parameters())

    def sizes(team: Team) -> dict[str, int]:
        return {name: each.numel() for name, each in share_of(folder, team).model.named_parameters()}

    for share in at_once(2, sizes):
        halves = {name for name, size in share.items() if 2 * size == whole[name].numel()}
        assert {name for name in share if name not in halves and share[name] != whole[name].numel()} == set()
        ends = ("qkv_proj.weight", "qkv_proj.bias", "o_proj.weight", "gate_up_proj.weight", "down_proj.weight")
        divided = {name for name in share if name.startswith("decoder.layers") and name.endswith(ends)}
        assert halves == divided | {"decoder.lm_head.weight"}


@pytest.mark.parametrize(
    ("text", "ranks", "message"),
    [
        (QWEN25VL.text, 3, "4 query heads cannot be divided among 3 ranks"),
        (QWEN3VL.text, 4, "2 KV heads cannot be divided among 4 ranks"),
        (replace(QWEN25VL.text, intermediate_size=49), 2, "49 rows of the feed-forward layers"),
        (
            replace(EXPERTS.text, experts=replace(EXPERTS.text.experts, intermediate_size=23)),  # type: ignore[type-var]
            2,
            "23 rows of the experts",
        ),
    ],
)
def test_what_cannot_be_divided_is_said(text: Any, ranks: int, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        text_share(text, ranks)
