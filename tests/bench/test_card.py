"""The GPU's arms on a model so small that a CPU does them: that they end, and that what they count adds up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.camera import Blocks, Crops
from bench.card import Card
from bench.load import Load
from bench.random_model import TINY, random_checkpoint
from workers.models.checkpoint import Checkpoint

pytestmark = pytest.mark.unit

LOAD = Load(
    seconds=0.3,
    sessions=2,
    pictures=2,
    pictures_a_step=2,
    answers=2,
    decoding=(1, 2),
    answer_tokens=8,
    quiet=2,
    age=90.0,
    looks=3,
    makers=0,
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint("cpu", torch.float32, TINY, side=112)


@pytest.fixture(scope="module")
def card(checkpoint: Checkpoint) -> Card:
    return Card(checkpoint, LOAD)


def test_ingest_keeps_every_token_of_every_picture(card: Card) -> None:
    figures = card.ingest()
    assert figures["fps"] > 0
    assert figures["keys"] > 2 * 16
    assert figures["kept"] >= 1
    assert figures["dropped_similar"] == 0


def test_what_stands_still_is_dropped(card: Card, tmp_path: Path) -> None:
    wall = np.random.default_rng(0).integers(0, 256, (120, 140, 3), dtype=np.uint8)
    Image.fromarray(wall).save(tmp_path / "0.jpg", quality=95)
    figures = card.dropping(Crops(tmp_path, 112))
    assert figures["kept"] < 1
    assert figures["fps"] > 0


def test_everything_is_kept_of_what_always_changes(card: Card) -> None:
    assert card.dropping(Blocks(112))["kept"] >= 0.98


def test_decoding_and_a_quiet_card_are_timed(card: Card) -> None:
    assert all(value > 0 for value in card.decode().values())
    assert all(value > 0 for value in card.quiet().values())


def test_an_old_session_is_looked_at_as_it_grows_older(card: Card) -> None:
    looks = card.age()
    ages = [look["age_s"] for look in looks]
    assert ages == sorted(set(ages))
    assert ages[-1] == 90
    assert ages[2] - ages[1] == pytest.approx(ages[1] - ages[0], abs=1)
    assert len({look["kv_bytes"] for look in looks}) == 1  # full from the first look on
    assert all(look["first_token_ms"] > 0 < look["young_first_token_ms"] for look in looks)


def test_a_profile_is_written_where_one_is_wanted(checkpoint: Checkpoint) -> None:
    tables: list[str] = []
    Card(checkpoint, LOAD, tables.append).ingest()
    assert any("aten::" in table for table in tables)
