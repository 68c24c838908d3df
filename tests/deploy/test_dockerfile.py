"""The images: which files go in, as which user they run, and the reader that the image check relies on."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dockerfile", ROOT / "deploy" / "dockerfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dockerfile", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped(reader: ModuleType) -> set[str]:
    return {str(path) for path in reader.context(ROOT, (ROOT / ".dockerignore").read_text())}


def steps(reader: ModuleType, target: str) -> Any:
    return reader.recipe((ROOT / "Dockerfile").read_text(), target)[1]


def test_stages_continuations_and_comments(reader: ModuleType) -> None:
    base = "# one\nFROM a:1 AS base\nRUN x \\\n && y\n"
    text = base + "# two\nFROM base AS top\nUSER me\nHEALTHCHECK --interval=1s \\\n  CMD z\n"
    image, found = reader.recipe(text, "top")
    assert image == "a:1"
    assert [(step.name, re.sub(" +", " ", step.value)) for step in found] == [
        ("RUN", "x && y"),
        ("USER", "me"),
        ("HEALTHCHECK", "CMD z"),
    ]


def test_commands_in_both_forms(reader: ModuleType) -> None:
    assert reader.Instruction("CMD", '["a", "b c"]').command() == ["a", "b c"]
    assert reader.Instruction("HEALTHCHECK", "CMD a b").command() == ["/bin/sh", "-c", "a b"]


def test_the_last_matching_pattern_of_dockerignore_counts(reader: ModuleType, tmp_path: Path) -> None:
    for name in ("keep/a.py", "keep/__pycache__/a.pyc", "drop/b.py", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert set(map(str, reader.context(tmp_path, "*\n!keep\n!c.txt\n**/__pycache__\n"))) == {"keep/a.py", "c.txt"}


def test_images_hold_the_product_alone(shipped: set[str]) -> None:
    rooms = {path.split("/")[0] for path in shipped}
    assert rooms >= {"protocol", "server", "workers", "launcher", "clients", "models"}
    assert not rooms & {"tests", "training", "bench", "docs", ".git"}
    assert {"clients/web/index.html", "models/mini/config.json"} <= shipped
    assert not any("__pycache__" in path for path in shipped)


@pytest.mark.parametrize("target", ["gateway", "worker"])
def test_everything_copied_is_in_the_context(reader: ModuleType, shipped: set[str], target: str) -> None:
    for step in steps(reader, target):
        if step.name == "COPY":
            sources = [word for word in step.words() if not word.startswith("--")][:-1]
            for source in sources:
                assert any(path == source or path.startswith(f"{source}/") for path in shipped), source


@pytest.mark.parametrize("target", ["gateway", "worker"])
def test_images_run_as_a_plain_user_with_a_health_check(reader: ModuleType, target: str) -> None:
    names = [step.name for step in steps(reader, target)]
    assert [step.value for step in steps(reader, target) if step.name == "USER"] == ["longlook"]
    assert {"HEALTHCHECK", "ENTRYPOINT", "CMD"} <= set(names)


def test_the_gateway_gets_no_torch(reader: ModuleType) -> None:
    runs = " ".join(step.value for step in steps(reader, "gateway") if step.name in ("RUN", "COPY"))
    assert "torch" not in runs.lower()
    assert "workers" not in runs
