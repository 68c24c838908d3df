"""What the tests of the worker's rooms share: small models and tokenizers, and a bus on a server of its own."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from launcher.valkey import bundled_binary
from protocol.bus import Bus
from protocol.connection import Connection
from tests.conformance.servers import Server
from tests.faults.leaks import lasting_keys

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CORPUS = (
    "system\nYou are watching a live video.\nuser\nassistant\n",
    "What is on the table now? A red ball and two green cubes are on the table.",
    "How many people walked past the door since the light went out? Three people walked past the door.",
    "Der Hund läuft über die Straße. 猫在桌子上。",
)


@pytest.fixture(scope="session")
def tokenizer_definition() -> Mapping[str, Any]:
    """The content of a small byte-level tokenizer.json with the special tokens of the Qwen2.5-VL family."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    definition: Mapping[str, Any] = json.loads(tokenizer.to_str())
    return definition


@dataclass(frozen=True)
class TinyModel:
    """A small random model: its folder in the Hugging Face layout, and transformers' model of the same weights."""

    folder: Path
    reference: Any


@pytest.fixture(scope="session")
def tiny_qwen25vl(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_definition: Mapping[str, Any]
) -> Callable[..., TinyModel]:
    """Makes `TinyModel`s: tiny_qwen25vl(seed=0, text={...}, vision={...}, tied=False), the mappings overriding shapes.

    The weights are drawn so that every position and every patch shows in the logits, and the rotary base is small so
    that the width axis, which has the slowest frequencies, turns visibly from one column to the next.
    """

    def make(
        seed: int = 0,
        text: Mapping[str, Any] | None = None,
        vision: Mapping[str, Any] | None = None,
        tied: bool = False,
    ) -> TinyModel:
        from transformers import Qwen2_5_VLForConditionalGeneration

        config = _qwen25vl_config(tokenizer_definition, text or {}, vision or {}, tied)
        reference = Qwen2_5_VLForConditionalGeneration(config)
        return _saved(reference, seed, tmp_path_factory.mktemp("tiny"), tokenizer_definition)

    return make


@pytest.fixture(scope="session")
def tiny_qwen3vl(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_definition: Mapping[str, Any]
) -> Callable[..., TinyModel]:
    """Makes `TinyModel`s like `tiny_qwen25vl`, dense or, with `experts=True`, of experts."""

    def make(
        seed: int = 0,
        text: Mapping[str, Any] | None = None,
        vision: Mapping[str, Any] | None = None,
        tied: bool = False,
        experts: bool = False,
    ) -> TinyModel:
        import transformers

        name = "Qwen3VLMoe" if experts else "Qwen3VL"
        kind = getattr(transformers, f"{name}Config")
        config = _qwen3vl_config(kind, tokenizer_definition, text or {}, vision or {}, tied)
        reference = getattr(transformers, f"{name}ForConditionalGeneration")(config)
        return _saved(reference, seed, tmp_path_factory.mktemp("tiny"), tokenizer_definition)

    return make


def _saved(reference: Any, seed: int, folder: Path, definition: Mapping[str, Any]) -> TinyModel:
    reference.eval()
    _spread_weights(reference, seed)
    reference.save_pretrained(folder)
    _write_processors(folder, definition, reference.config.vision_config.patch_size)
    return TinyModel(folder, reference)


def _ids(definition: Mapping[str, Any]) -> dict[str, int]:
    return {entry["content"]: entry["id"] for entry in definition["added_tokens"]}


def _special(ids: Mapping[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _text_shape(ids: Mapping[str, int], text: Mapping[str, Any]) -> dict[str, Any]:
    shape = {
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
    }
    return shape | dict(text)


def _qwen25vl_config(
    definition: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], tied: bool
) -> Any:
    import transformers

    ids = _ids(definition)
    text_shape = _text_shape(ids, text)
    vision_shape = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "out_hidden_size": text_shape["hidden_size"],
    }
    kind: Any = transformers.Qwen2_5_VLConfig
    return kind(
        text_config=text_shape, vision_config=vision_shape | dict(vision), tie_word_embeddings=tied, **_special(ids)
    )


def _qwen3vl_config(
    kind: Any, definition: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], tied: bool
) -> Any:
    ids = _ids(definition)
    rope = {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    text_shape = _text_shape(ids, {"head_dim": 32, "rope_parameters": rope, **experts, **text})
    vision_shape = {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
        "out_hidden_size": text_shape["hidden_size"],
    }
    return kind(
        text_config=text_shape, vision_config=vision_shape | dict(vision), tie_word_embeddings=tied, **_special(ids)
    )


def _spread_weights(model: Any, seed: int) -> None:
    """Every matrix keeps the size of what passes through; queries and keys are larger, so that attention is peaked."""
    import torch

    chance = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=chance)
        if name.endswith("embed_tokens.weight"):
            value = noise * 0.1
        elif name.endswith("pos_embed.weight"):
            value = noise * 0.5
        elif parameter.ndim >= 2:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 0.7
            inputs = parameter.shape[-1] if "experts" in name else parameter[0].numel()
            value = noise * gain / inputs**0.5
        else:
            value = noise * 0.1 + (0.0 if name.endswith("bias") else 1.0)
        parameter.data.copy_(value)


def _write_processors(folder: Path, definition: Mapping[str, Any], patch_size: int) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": (4 * patch_size) ** 2,
        "max_pixels": (8 * patch_size) ** 2,
        "patch_size": patch_size,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(bundled_binary(), tmp_path_factory.mktemp("bus") / "s.sock") as server:
        yield server


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    connection = Connection(server.url)
    await connection.command("FLUSHALL")
    bus = await Bus.connect(server.url)
    yield bus
    await bus.aclose()
    lasting = await lasting_keys(connection)
    await connection.aclose()
    assert lasting == [], "keys that never expire"
