"""The bundled model as it is shipped."""

import json
from pathlib import Path

import pytest

from training.architecture import configuration
from training.listener import Listener
from training.parity import compare
from training.world.director import direct
from workers.models.checkpoint import open_checkpoint
from workers.models.families import read_config
from workers.models.tokenizer import Tokenizer

MINI = Path(__file__).parents[2] / "models" / "mini"


@pytest.mark.unit
def test_the_folder_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in MINI.iterdir()}
    assert sum(sizes.values()) <= 20e6
    assert max(sizes.values()) < 15e6


@pytest.mark.unit
def test_the_configuration_is_the_written_one() -> None:
    assert json.loads((MINI / "config.json").read_text()) == configuration(Tokenizer.from_folder(MINI))


@pytest.mark.unit
def test_a_picture_costs_at_most_three_gigaflop() -> None:
    """Two operations a multiply-add; without attention to the trunk, which depends on its length."""
    config = read_config(MINI)
    vision, text, patches = config.vision, config.text, 256
    block = 4 * vision.hidden_size**2 + 3 * vision.hidden_size * vision.intermediate_size
    window, full = (vision.window_size // vision.patch_size) ** 2, len(vision.full_attention_blocks)
    keys = (vision.depth - full) * window + full * patches
    merged = vision.hidden_size * vision.merge_size**2
    tower = patches * (vision.patch_dim * vision.hidden_size + vision.depth * block + 2 * keys * vision.hidden_size)
    merger = patches // vision.merge_size**2 * merged * (merged + vision.out_hidden_size)
    heads = text.heads + 2 * text.kv_heads
    layer = text.hidden_size * (heads * text.head_dim + text.heads * text.head_dim + 3 * text.intermediate_size)
    assert 2 * (tower + merger + 64 * text.layers * layer) <= 3.0e9
    assert text.kv_heads >= 2
    assert text.head_dim == 64


@pytest.mark.unit
@pytest.mark.parametrize(
    "text", ["", "Plain English, as it stands.", "Größe 你好 👋\n\t", "<|im_end|> and <|im_start|>"]
)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = Tokenizer.from_folder(MINI)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert not set(tokens) & set(tokenizer.special.stops)


@pytest.mark.parity
@pytest.mark.timeout(300)
def test_transformers_gives_the_same_answers() -> None:
    """Fifty clips: `python -m training.parity --clips 50`."""
    told = compare(MINI, seed=3, count=1, seconds=16.0)
    assert told["questions"] >= 5
    assert told["different"] == []


@pytest.mark.parity
@pytest.mark.timeout(300)
def test_a_window_drops_old_pictures_and_an_age_moves_the_clock() -> None:
    import torch

    from training.world.renderer import Renderer
    from training.world.video import pictures

    checkpoint = open_checkpoint(MINI)
    listeners = [Listener(checkpoint), Listener(checkpoint, window=3), Listener(checkpoint, age=5000)]
    for index, picture in enumerate(pictures(direct(1, 6.0), 1.0, Renderer.on(torch.device("cpu")))):
        for listener in listeners:
            listener.see(picture, 1000 * index)
    assert all(listener.ask("What do you see in the centre?").endswith(".") for listener in listeners)
    assert [len(listener._pieces) for listener in listeners] == [6, 3, 6]
