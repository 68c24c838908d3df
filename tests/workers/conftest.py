"""Factories of small models and tokenizers that the tests of the worker's rooms share."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
