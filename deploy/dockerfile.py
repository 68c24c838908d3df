"""Reads a Dockerfile and a .dockerignore: as much of them as this project uses."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str

    def words(self) -> list[str]:
        return shlex.split(self.value)

    def command(self) -> list[str]:
        """The words of an ENTRYPOINT, CMD or HEALTHCHECK CMD, in its list form or for a shell."""
        text = self.value.removeprefix("CMD ")
        if text.startswith("["):
            words: list[str] = json.loads(text)
            return words
        return ["/bin/sh", "-c", text]


@dataclass
class Stage:
    name: str
    parent: str
    instructions: list[Instruction] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """The stages by name. ValueError for an instruction before the first FROM."""
    found: list[Stage] = []
    for name, value in _lines(text):
        if name == "FROM":
            words = value.split()
            found.append(Stage(words[2] if len(words) > 2 else str(len(found)), words[0]))
        elif not found:
            raise ValueError(f"{name} before FROM")
        else:
            found[-1].instructions.append(Instruction(name, value))
    return {stage.name: stage for stage in found}


def recipe(text: str, target: str) -> tuple[str, list[Instruction]]:
    """The image that ``target`` begins from, and every instruction on the way there."""
    known, steps, name = stages(text), list[Instruction](), target
    while name in known:
        steps = known[name].instructions + steps
        name = known[name].parent
    return name, steps


def _lines(text: str) -> Iterator[tuple[str, str]]:
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in kept.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, value = line.strip().partition(" ")
            head, _, rest = value.strip().partition(" CMD ")
            if name == "HEALTHCHECK" and rest:
                value = f"CMD {rest.strip()}" if head.startswith("--") else value
            yield name.upper(), value.strip()


def context(root: Path, ignore: str) -> Iterator[Path]:
    """The files under ``root`` that .dockerignore lets through, relative to it. The last matching pattern counts."""
    patterns = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _closed(here / name, patterns)]
        yield from (here / name for name in files if not _ignored(here / name, patterns))


def _ignored(path: Path, patterns: list[str]) -> bool:
    ignored = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(_matches(part, bare) for part in (path, *path.parents)):
            ignored = not pattern.startswith("!")
    return ignored


def _closed(folder: Path, patterns: list[str]) -> bool:
    """Whether nothing below an ignored folder can be let in again."""
    back = [Path(pattern.removeprefix("!")) for pattern in patterns if pattern.startswith("!")]
    return _ignored(folder, patterns) and not any(folder in path.parents for path in back)


def _matches(path: Path, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.name, pattern.removeprefix("**/"))
    parts, wanted = path.parts, Path(pattern).parts
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
