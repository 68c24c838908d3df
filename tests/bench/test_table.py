"""The README holds exactly the table that the kept results make."""

import json
import shutil
from pathlib import Path

import pytest

from bench.table import RESULTS, table

pytestmark = pytest.mark.unit

README = Path(__file__).parents[2] / "README.md"


def test_no_figure_stands_in_the_readme_that_no_command_has_written() -> None:
    assert table() in README.read_text(encoding="utf-8")


def test_answers_tell_how_long_a_memory_they_read(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "engine-cuda.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["details"]["decode"]["keys"] = 4112
    path.write_text(json.dumps(result), encoding="utf-8")
    assert "answers at once on memories of 4,112 keys | " in table(tmp_path)
