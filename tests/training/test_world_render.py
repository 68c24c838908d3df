import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from training.world.questions import KINDS

pytestmark = pytest.mark.unit


def render(folder: Path, name: str, *flags: str) -> tuple[bytes, dict[str, object]]:
    video, truth = folder / f"{name}.mp4", folder / f"{name}.json"
    command = [sys.executable, "-m", "training.world", "render", "--seconds", "20", "--rate", "4"]
    subprocess.run([*command, *flags, "--out", str(video), "--truth", str(truth)], check=True, capture_output=True)
    return video.read_bytes(), json.loads(truth.read_text())


def test_a_seed_renders_one_video_with_its_truth(tmp_path: Path) -> None:
    video, truth = render(tmp_path, "a", "--seed", "5")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (224, 224)
        assert sum(1 for _ in container.decode(video=0)) == 80
    assert render(tmp_path, "b", "--seed", "5") == (video, truth)
    questions = truth["questions"]
    assert isinstance(questions, list)
    assert questions
    assert {question["kind"] for question in questions} <= set(KINDS)
    assert all(0 < question["time"] < 20 for question in questions)
    assert {"events", "objects", "values"} <= truth.keys()
