"""The decoder of the Llama, Qwen2, Qwen2.5 and Qwen3 families, dense or of experts, over a packed run of tokens.

It knows nothing of sequences, caches or masks: whoever runs it supplies `attend`, which stores the keys and values it
is given and returns what the queries see.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.core import ALONE, Team
from workers.models.config import TextConfig
from workers.models.experts import MixtureOfExperts
from workers.models.fusion import HeadNorms, Rows, normed, rotated
from workers.models.layers import Linear, RMSNorm, SwiGLU
from workers.models.rope import Rope, Rotation
from workers.models.sharding import head_rows, share_of


class Attend(Protocol):
    """Attention of one layer, supplied by the caller."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotated queries [tokens, heads, head_dim], rotated keys and values [tokens, kv_heads, head_dim] of the new
        tokens to outputs [tokens, heads, head_dim] (or with the last two flattened)."""
        ...


class Deepstack(NamedTuple):
    """Features [m, levels * hidden] of the tokens at `rows` int64 [m], all of them different.

    One level each is added to their hidden states after the first layer, the second, and so on.
    """

    rows: Tensor
    features: Tensor


class SelfAttention(nn.Module):
    """Grouped-query attention around the caller's `attend`; one matrix product makes queries, keys and values."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self._heads, self._kv_heads, self._head_dim = config.heads, config.kv_heads, config.head_dim
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv_proj = Linear(config.hidden_size, rows, bias=config.qkv_bias)
        self.o_proj = Linear(config.heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Rows, layer: int, rotation: Rotation, attend: Attend) -> Tensor:
        """Mixed values [tokens, heads * head_dim], before `o_proj`."""
        qkv = self.qkv_proj(x).view(-1, self._heads + 2 * self._kv_heads, self._head_dim)
        qk, v = qkv.tensor_split((self._heads + self._kv_heads,), dim=1)
        norms = None
        if self.q_norm is not None and self.k_norm is not None:
            norms = HeadNorms(self._heads, self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)
        q, k = rotated(qk, rotation, norms).tensor_split((self._heads,), dim=1)
        return attend(layer, q, k, v).reshape(len(q), -1)


class DecoderLayer(nn.Module):
    """One rank's share of a layer: of what it adds to the hidden states, the ranks' parts are summed up."""

    def __init__(self, config: TextConfig, team: Team = ALONE) -> None:
        super().__init__()
        self._team = team
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = (
            SwiGLU(config.hidden_size, config.intermediate_size, bias=False)
            if config.experts is None
            else MixtureOfExperts(config.hidden_size, config.experts)
        )

    def forward(self, x: Tensor, layer: int, rotation: Rotation, attend: Attend, rows: Tensor | slice | None) -> Tensor:
        x, more = self.advance(x, None, layer, rotation, attend, rows)
        return x + more

    def advance(
        self,
        x: Tensor,
        more: Tensor | None,
        layer: int,
        rotation: Rotation,
        attend: Attend,
        rows: Tensor | slice | None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states and what is still to be added to them, which the next norm does, from the same of before."""
        x, normed = self.input_layernorm.sum(x, more, self.self_attn.qkv_proj)
        mixed = self.self_attn(normed, layer, rotation, attend)
        if rows is not None:
            x, mixed = x[rows], mixed[rows]
        mixed = self._team.sum(self.self_attn.o_proj(mixed))
        x, normed = self.post_attention_layernorm.sum(x, mixed, self.mlp.reader)
        return x, self._team.sum(self.mlp(normed))


class Decoder(nn.Module):
    """Embeddings, layers, final norm and head; `rope` makes the rotations for its positions.

    In a `team` each rank has its share of the layers and of the head's rows; `config` describes that share.
    """

    def __init__(self, config: TextConfig, team: Team = ALONE) -> None:
        """`config` is that of the whole decoder."""
        super().__init__()
        self.config = config = share_of(config, team.size)
        self._team, self._head_rows = team, head_rows(config.vocab_size, team.size)
        self.rope = Rope(config.head_dim, config.rope_theta, config.mrope_section, interleaved=config.mrope_interleaved)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config, team) for _ in range(config.layers)])
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        tied = config.tied_embeddings
        self.lm_head = None if tied else Linear(config.hidden_size, self._head_rows, bias=False)

    @property
    def first_row(self) -> int:
        """The token that the first of the head's rows here is for."""
        return 0 if self._head_rows == self.config.vocab_size else self._team.rank * self._head_rows

    @property
    def _tied_head(self) -> Tensor:
        return self.embed_tokens.weight.narrow(0, self.first_row, self._head_rows)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [n, hidden] of token ids int64 [n]."""
        embeds: Tensor = self.embed_tokens(tokens)
        return embeds

    def forward(
        self,
        embeds: Tensor,
        rotation: Rotation,
        attend: Attend,
        rows: Tensor | slice | None = None,
        deepstack: Deepstack | None = None,
    ) -> Tensor:
        """Hidden states [tokens, hidden] after the final norm, of embeds [tokens, hidden].

        `rows` (indices or a slice) names the tokens whose hidden states are wanted; the others (a frame's, say) are
        only written through `attend`, which may leave their outputs in the last layer undefined, and the rest of that
        layer skips them. `deepstack` has fewer levels than there are layers.
        """
        x, more, last = embeds, None, len(self.layers) - 1
        levels = () if deepstack is None else torch.split(deepstack.features, embeds.shape[-1], dim=-1)
        for layer, block in enumerate(cast("Sequence[DecoderLayer]", self.layers)):
            x, more = block.advance(x, more, layer, rotation, attend, rows if layer == last else None)
            if deepstack is not None and layer < len(levels):
                more = more.index_add(0, deepstack.rows, levels[layer])
        _, hidden = normed(x, more, self.norm.weight, self.norm.eps)
        return cast(Tensor, hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [n, vocabulary] of the next token after hidden [n, hidden]."""
        own = self.lm_head
        scores: Tensor = own(hidden) if own is not None else F.linear(hidden, self._tied_head)
        if self._head_rows == self.config.vocab_size:
            return scores
        return self._team.joined(scores).movedim(0, 1).flatten(1)


def placed(embeds: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Deepstack | None]:
    """Embeddings [n, hidden] with a vision tower's tokens [m, width] at `rows` int64 [m], and what the layers add."""
    first, rest = tokens.tensor_split((embeds.shape[-1],), dim=-1)
    return embeds.index_copy(0, rows, first), Deepstack(rows, rest) if rest.shape[-1] else None
