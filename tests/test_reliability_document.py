"""The table of docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`((?:tests/)?[\w/]+\.py)((?:::\w+)*)`")


def test_every_test_that_is_named_exists() -> None:
    missing = []
    for file, parts in NAMED.findall((ROOT / "docs/reliability.md").read_text()):
        path = ROOT / (file if file.startswith("tests/") else f"tests/{file}")
        text = path.read_text() if path.exists() else ""
        names = parts.split("::")[1:]
        missing += [f"{file}::{name}" for name in names if not re.search(rf"\b(def|class) {name}\b", text)]
        missing += [] if text else [file]
    assert missing == []


def test_every_case_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)
    assert rows == [str(number) for number in range(1, 42)]
