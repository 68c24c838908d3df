"""Prints the requirements that pyproject.toml names, one a line, for an image that runs from the source folders.

Usage: python deploy/requirements.py [EXTRA ...]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """The project's own requirements, then those of the extras; KeyError for an extra that is not there."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted: list[str] = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return wanted


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(sys.argv[1:])) + "\n")
