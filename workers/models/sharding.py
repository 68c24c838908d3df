"""One model on several ranks: each has its share of the heads and of the insides of feed-forward layers.

What the layers read and write is the same everywhere, so that a layer's ranks agree by two sums: after `o_proj` and
after `down_proj` (Megatron-LM, arXiv:1909.08053). The vision tower, the embeddings and the norms are whole on each.
"""

from dataclasses import replace

from workers.models.config import ExpertsConfig, TextConfig
from workers.models.errors import UnsupportedModel


def share_of(config: TextConfig, ranks: int) -> TextConfig:
    """The decoder that one of `ranks` ranks has. UnsupportedModel if its heads or layers cannot be divided evenly."""
    return replace(
        config,
        heads=_divided(config.heads, ranks, "query heads"),
        kv_heads=_divided(config.kv_heads, ranks, "KV heads"),
        intermediate_size=_divided(config.intermediate_size, ranks, "rows of the feed-forward layers"),
        experts=None if config.experts is None else _expert_shares(config.experts, ranks),
    )


def head_rows(vocabulary: int, ranks: int) -> int:
    """Rows of the head that a rank has: its share, or all where that is not even."""
    return vocabulary if vocabulary % ranks else vocabulary // ranks


def _expert_shares(experts: ExpertsConfig, ranks: int) -> ExpertsConfig:
    """Every rank has a part of every expert, so that all have the same to do wherever the router sends the tokens."""
    return replace(experts, intermediate_size=_divided(experts.intermediate_size, ranks, "rows of the experts"))


def _divided(count: int, ranks: int, what: str) -> int:
    if count % ranks:
        raise UnsupportedModel(f"{count} {what} cannot be divided among {ranks} ranks")
    return count // ranks
