"""The demo: which questions it asks, how it tells right from wrong, and that it ends with nothing left running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launcher.demo import TooFewQuestions, names, pick

MARK = "LONGLOOK_DEMO_TEST"


def truth_file(folder: Path, questions: list[tuple[str, float]]) -> Path:
    path = folder / "truth.json"
    told = [{"kind": k, "time": t, "text": f"{k}?", "answer": f"{k}.", "value": k} for k, t in questions]
    path.write_text(json.dumps({"questions": told}))
    return path


@pytest.mark.unit
def test_three_questions_of_different_kinds_far_apart(tmp_path: Path) -> None:
    asked = [("read", 20.0), ("what", 3.0), ("where", 4.0), ("what", 8.0), ("where", 12.0), ("colour", 16.0)]
    assert [(q.kind, q.time) for q in pick(truth_file(tmp_path, asked))] == [
        ("what", 3.0),
        ("colour", 16.0),
        ("read", 20.0),
    ]


@pytest.mark.unit
def test_a_clip_without_enough_to_ask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooFewQuestions):
        pick(truth_file(tmp_path, [("what", 3.0), ("where", 4.0), ("what", 8.0)]))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "value", "right"),
    [
        ("There is a red ball.", "ball", True),
        ("Three BALLS", "ball", False),
        ("No, there is none.", "no", True),
        ("Nothing", "no", False),
        ("It says 14.", "14", True),
        ("It says 114.", "14", False),
    ],
)
def test_an_answer_is_right_if_it_names_the_value_as_a_word(text: str, value: str, right: bool) -> None:
    assert names(text, value) is right


def run_demo(mark: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, MARK: mark, "COLUMNS": "120"}
    command = [sys.executable, "-m", "launcher.demo", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def left_running(mark: str) -> list[psutil.Process]:
    def marked(process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == mark
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if marked(process)]


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_whole_demo(tmp_path: Path) -> None:
    result = run_demo(str(tmp_path), "--seed", "11", "--seconds", "20")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("      answer  ") == result.stdout.count("      truth   ") == 3
    assert "answers name the true value" in result.stdout
    assert left_running(str(tmp_path)) == []


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_a_server_that_cannot_start_fails_the_demo(tmp_path: Path) -> None:
    result = run_demo(str(tmp_path), "--seed", "11", "--model", str(tmp_path / "no-model"))
    assert result.returncode == 1
    assert "The demo failed" in result.stdout
    assert left_running(str(tmp_path)) == []
