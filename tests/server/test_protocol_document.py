"""docs/protocol.md against the code: what it promises must be what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from protocol import errors
from protocol.errors import LonglookError
from server.routes import commands, schema
from server.routes.outbox import CloseCode
from server.settings import Limits

pytestmark = pytest.mark.unit

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    after = TEXT.split(f"{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert table is not None
    lines = table[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_error_code_with_its_status() -> None:
    documented = {
        (code, int(status))
        for row in rows("## Errors")
        for code in re.findall(r"`(\w+)`", row[0])
        for status in re.findall(r"\d+", row[1])
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LonglookError)]
    inside = {errors.Replaced, errors.LaneFull, errors.LeaseLost}  # they end inside the gateway or a worker
    assert documented == {(kind.code, kind.status) for kind in kinds if kind not in inside}


def test_every_command_and_close_code() -> None:
    documented = {
        re.findall(r"`([\w.]+)`", row[0])[0] for row in rows("### Commands: JSON text messages, client to server")
    }
    assert documented == {command.__struct_config__.tag for command in commands.Command.__subclasses__()}
    codes = {int(row[0]) for row in rows("### Close codes")}
    assert codes == {int(code) for code in CloseCode} | {1009, 1012}  # these two are Uvicorn's to send


def test_the_chunk_header() -> None:
    sizes = [int(row[0]) for row in rows("### Chunks: binary messages, client to server")]
    assert sum(sizes) == commands.CHUNK_HEADER.size
    assert f'struct.pack("{commands.CHUNK_HEADER.format}"' in TEXT


def test_limits_and_their_defaults() -> None:
    written: dict[str, float] = {
        "8 MiB": 8 << 20,
        "64 KiB": 64 << 10,
        "8,192 characters": 8_192,
        "1,024": 1_024,
        "64 MiB": 64 << 20,
        "512 MiB": 512 << 20,
    }
    written |= {
        "25 megapixels": 25_000_000,
        "12.5 megapixels": 12_500_000,
        "4096 x 2176 pixels": 4096 * 2176,
        "256 KiB": 256 << 10,
    }
    written |= {"16": 16, "60 s": 60.0, "10 s": 10.0}
    for _, value, names in rows("## Limits"):
        for name in re.findall(r"`(\w+)`", names):
            default = Limits.model_fields[name].default
            assert default in ([written[value]] if value in written else [float(v) for v in value.split("; ")]), name


def test_examples_have_the_fields_that_are_sent() -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    shapes = [set(block) for block in blocks]
    assert set(schema.SESSION_EXAMPLE) | set(schema.TOKEN_EXAMPLE) in shapes
    for example in (schema.HEALTH_EXAMPLE, schema.ANSWER_EXAMPLE, schema.MEDIA_EXAMPLE):
        assert set(example) in shapes
    models = next(block for block in blocks if block.get("object") == "list")
    assert models["data"] == [schema.MODEL_EXAMPLE]
