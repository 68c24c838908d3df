"""The one decoder against transformers' text models of each family that it serves."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.models.config import Section, text_config
from workers.models.decoder import Decoder

pytestmark = pytest.mark.parity

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.transpose(0, 1) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(0, 1)


def copy_weights(decoder: Decoder, state: dict[str, Tensor]) -> None:
    fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    for name, parameter in decoder.named_parameters():
        whole = next((key for key in fused if key in name), None)
        names = [name.replace(whole, part) for part in fused[whole]] if whole else [name]
        prefix = "" if name.startswith("lm_head") else "model."
        parameter.data.copy_(torch.cat([state.pop(prefix + part) for part in names]))
    assert not state.keys() - {"lm_head.weight"}


@pytest.mark.parametrize(
    ("family", "extra", "traits"),
    [
        ("Llama", {"rope_theta": 5000.0}, {"qkv_bias": False, "qk_norm": False}),
        ("Qwen2", {"tie_word_embeddings": True}, {"qkv_bias": True, "qk_norm": False}),
        ("Qwen3", {"head_dim": 32}, {"qkv_bias": False, "qk_norm": True}),
    ],
)
def test_text_families(family: str, extra: dict[str, Any], traits: dict[str, bool]) -> None:
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**SHAPE, **extra)
    reference = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in reference.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    decoder = Decoder(text_config(Section("root", config.to_dict()), **traits))
    copy_weights(decoder, dict(reference.state_dict()))

    tokens = torch.randint(0, 97, (40,))
    positions = torch.arange(7, 47)
    with torch.no_grad():
        hidden = decoder(decoder.embed(tokens), decoder.rope.rotation(positions.expand(3, -1)), causal)
        expected = reference(input_ids=tokens[None], position_ids=positions[None]).logits[0]
        assert (decoder.logits(hidden) - expected).abs().max() < 1e-4
        shifted = decoder(decoder.embed(tokens), decoder.rope.rotation(positions.expand(3, -1) * 2), causal)
        assert (decoder.logits(shifted) - expected).abs().max() > 1e-2
