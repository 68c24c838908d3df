"""The README holds exactly the table that the kept results make."""

from pathlib import Path

import pytest

from bench.table import table

pytestmark = pytest.mark.unit

README = Path(__file__).parents[2] / "README.md"


def test_no_figure_stands_in_the_readme_that_no_command_has_written() -> None:
    assert table() in README.read_text(encoding="utf-8")
