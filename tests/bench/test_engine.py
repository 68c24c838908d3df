"""The command over a GPU's arms, with a tiny model on the CPU: one file out of several calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import engine
from bench.camera import Crops
from bench.load import Load
from bench.measures import ARMS, changed_blocks

pytestmark = pytest.mark.e2e

LOAD = ["seconds=0.5", "sessions=2", "pictures=2", "pictures_a_step=2", "answers=1", "decoding=[1,32]", "quiet=1"]
TINY = ["--shape", "tiny", "--side", "112", "--threads", "1", "--commit", "c", "--load", *LOAD, "makers=0", "looks=2"]


def measured(path: Path, arms: str, *further: str) -> dict[str, dict[str, Any]]:
    engine.main(["--arms", arms, "--json", str(path), *TINY, "age=6", "answer_tokens=24", *further])
    held: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return held


def test_arms_of_several_calls_stand_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    Image.fromarray(np.zeros((120, 120, 3), np.uint8)).save(tmp_path / "0.jpg")
    measured(path, "ingest,age", "--ceiling", "20")
    live = ["--live", "settle=0.2", "slo_itl_ms=null", "makers=1"]
    held = measured(path, "ingest_fp8,ingest_drop,loaded,decode,decode_fp8,quiet", "--footage", str(tmp_path), *live)
    loaded = held["details"]["loaded"]
    assert loaded["tokens"] > 0
    assert 0 < loaded["between_p50_ms"] <= loaded["between_p99_ms"]
    assert 0 < loaded["share"] <= 1
    assert loaded["lost"] == 0
    assert {*held["figures"], "itl_under_load_ms"} == {
        *("ingest_full_fps", "ingest_fp8_fps", "ingest_drop_fps", "frame_quiet_ms"),
        *("ttft_age_ratio", "decode32_ms", "itl_under_load_ms"),
    }
    assert held["machine"]["model"] == "tiny"
    assert (tmp_path / "engine-first-token.svg").exists()


@pytest.mark.gpu
@pytest.mark.timeout(240)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_arms_on_a_gpu(tmp_path: Path) -> None:
    given = ["ingest,loaded,decode,quiet,age,growth,live_full,steady", "--device", "cuda"]
    live = ["--live", "sessions=2", "most=3", "step=1", "trial=2", "seconds=5", "settle=1", "every=1", "makers=1"]
    held = measured(tmp_path / "engine.json", *given, *live, "age_s=9", "--growth", "hours=0.02", "sessions=4")
    assert not [arm for arm, told in held["details"].items() if "failed" in told]
    assert held["details"]["growth"]["pages_left"] == 0


def test_what_cannot_be_measured_here_says_why(tmp_path: Path) -> None:
    held = measured(tmp_path / "engine.json", "loaded,ingest_drop,live_drop,vllm")
    assert set(held["details"]) == {"loaded", "ingest_drop", "live_drop", "vllm"}
    assert held["figures"] == {}
    assert "--vllm" in str(held["details"]["vllm"])


def test_an_arm_that_fails_leaves_the_others_their_say(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    with pytest.raises(SystemExit, match="failed: ingest_drop"):
        measured(path, "ingest_drop,quiet", "--footage", str(tmp_path))
    held = json.loads(path.read_text())
    assert "FileNotFoundError" in held["details"]["ingest_drop"]["failed"]
    assert list(held["figures"]) == ["frame_quiet_ms"]


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--arms", "nothing"], "no arms nothing"), (["--arms", "quiet", "--load", "speed=3"], "--load has no speed")],
)
def test_what_is_not_there_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        engine.main(["--shape", "tiny", *given])


def test_a_first_token_through_the_gateway(tmp_path: Path) -> None:
    held = measured(tmp_path / "engine.json", "gateway")
    assert list(held["figures"]) == ["ttft_quiet_ms"]


def test_changed_blocks_are_counted_on_what_the_cameras_see(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for number in range(4):
        wall = np.full((120, 120, 3), 90, np.uint8)
        wall[8 * number : 8 * number + 24, 10:40] = chance.integers(0, 256, 3)
        Image.fromarray(wall).save(tmp_path / f"{number}.jpg", quality=95)
    told = changed_blocks(Crops(tmp_path, 112), Load(), pictures=12, cameras=2)
    assert told["changed_blocks_kept"] >= 0.99
    assert told["kept"] < 0.6
    assert set(ARMS) >= {"ingest", "vllm"}
