"""Who sees whom in packed examples: one rule, as a dense mask on the CPU and as a block mask on the GPU."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def visible(batch: Mapping[str, Tensor], b: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Whether in example `b` the token `query` sees the token `key`; index tensors of any shapes that broadcast."""
    branch = batch["branch"]
    same_branch = (branch[b, key] == branch[b, query]) & (branch[b, key] != 0)
    in_trunk = (branch[b, key] == 0) & (key < batch["fork"][b, query])
    in_window = batch["tick"][b, query] < batch["until"][b, key]
    return (key <= query) & (same_branch | (in_trunk & in_window))


def dense_attention(batch: Mapping[str, Tensor]) -> Attention:
    """Attention over packed examples with the mask written out; for the CPU and small sizes."""
    count, length = batch["branch"].shape
    line = torch.arange(length, device=batch["branch"].device)
    examples = torch.arange(count, device=line.device)[:, None, None]
    mask = visible(batch, examples, line[None, :, None], line[None, None, :])[:, None]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.view(count, length, *part.shape[1:]).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(0, 1)

    return attend


def block_mask(batch: Mapping[str, Tensor]) -> BlockMask:
    """The rule as a block mask, on the GPU."""
    count, length = batch["branch"].shape

    def rule(b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(batch, b, query, key)

    return create_block_mask(rule, count, None, length, length, device="cuda", _compile=True)


def block_attention(mask: BlockMask, count: int, length: int) -> Attention:
    """Attention over `count` packed examples of `length` tokens by a block mask."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.view(count, length, *part.shape[1:]).transpose(1, 2) for part in (q, k, v))
        mixed: Tensor = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(0, 1)

    return attend
