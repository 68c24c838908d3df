"""Imports run one way: what each room may know of the others, held against every import in the tree."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]

# What a module may import of ours: the longest matching prefix of its name decides.
ALLOWED = {
    "protocol": {"protocol"},
    "server": {"server", "protocol"},
    "workers": {"workers", "protocol"},
    "workers.core": set(),
    "workers.launches": set(),
    "workers.memory": {"workers.core", "workers.memory"},
    "workers.attention": {"workers.core", "workers.launches", "workers.attention"},
    "workers.models": {"workers.core", "workers.launches", "workers.models"},
    "workers.perception": {"workers.core", "workers.models", "workers.perception"},
    "workers.engine": {
        "workers.core", "workers.memory", "workers.attention", "workers.models", "workers.perception", "workers.engine",
        "protocol.messages",
    },
    "workers.engine.__main__": {"workers", "protocol.messages"},
    "workers.parallel": {
        "workers.core", "workers.memory", "workers.models", "workers.perception", "workers.engine", "workers.parallel",
    },
    "launcher": {"launcher", "server", "workers", "protocol", "longlook_client"},
    "longlook_client": {"longlook_client"},
    "training": {"training", "workers.models", "workers.perception", "workers.core"},
    "bench": {"bench", "launcher", "longlook_client", "training", "workers", "protocol"},
}  # fmt: skip
# Of workers/, these alone may be reached by the others that live there.
WORKER_MAY = {
    "workers.engine.client", "workers.engine.messages", "workers.engine.wire", "workers.engine.ring",
    "workers.perception.changes",
}  # fmt: skip
OURS = ("protocol", "server", "workers", "launcher", "longlook_client", "training", "bench")
HEAVY = ("torch", "transformers", "tokenizers", "safetensors")


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] == ("clients", "python"):
            parts = parts[2:]
        if parts[0] in OURS:
            yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def rule(module: str) -> set[str]:
    return ALLOWED[max((room for room in ALLOWED if within(module, room)), key=len)]


MODULES = dict(modules())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may_know(module: str) -> None:
    ours = [name for name in imports(MODULES[module]) if name.split(".")[0] in OURS]
    assert [name for name in ours if not any(within(name, room) for room in rule(module))] == []


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.split(".")[0] in ("protocol", "server", "launcher")]
)
def test_a_gateway_needs_no_torch(module: str) -> None:
    assert [name for name in imports(MODULES[module]) if name.split(".")[0] in HEAVY] == []


def test_the_worker_knows_nothing_of_tensors() -> None:
    beside_engine = [name for name in MODULES if name.startswith("workers.") and name.count(".") == 1]
    for module in set(beside_engine) - {"workers.core", "workers.launches"}:
        names = list(imports(MODULES[module]))
        assert not [name for name in names if name.split(".")[0] in HEAVY], module
        inside = [name for name in names if name.startswith("workers.") and name.count(".") == 2]
        assert set(inside) <= WORKER_MAY, module


def test_the_engine_knows_nothing_of_the_bus() -> None:
    for module in (name for name in MODULES if within(name, "workers.engine")):
        assert not [name for name in imports(MODULES[module]) if name.split(".")[0] == "redis"], module


def test_the_rules_are_met_by_rooms_that_exist() -> None:
    assert all(any(within(module, room) for module in MODULES) for room in ALLOWED)


def test_the_page_names_rooms_tests_and_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {path.relative_to(ROOT).as_posix(): path for path in ROOT.glob("*/**/*.py") if ".venv" not in path.parts}
    tests = "".join(path.read_text(encoding="utf-8") for name, path in files.items() if name.startswith("tests/"))
    named = re.findall(r"`([\w/]+\.py)`", page)
    assert [name for name in named if not any(file.endswith(f"/{name}") or file == name for file in files)] == []
    assert [name for name in re.findall(r"`(test_\w+)`", page) if f"def {name}(" not in tests] == []
    assert [room for room in re.findall(r"^(\w+)/ ", page, re.MULTILINE) if not (ROOT / room).is_dir()] == []
