"""The settings that apply, in the form of the file that could have set them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr

from launcher.settings import Settings
from server.settings import Settings as GatewaySettings
from workers.settings import Settings as WorkerSettings

MASK = "********"


def describe() -> str:
    """All tables of a longlook.toml with the values in force. What is unset is a comment, what is secret a mask."""
    tables = {"launcher": Settings(), "gateway": GatewaySettings(), "worker": WorkerSettings()}
    return "\n\n".join("\n".join(_table(name, settings)) for name, settings in tables.items())


def _table(name: str, settings: BaseModel) -> Iterator[str]:
    yield f"[{name}]"
    nested: list[tuple[str, BaseModel]] = []
    for field, value in settings:
        if isinstance(value, BaseModel):
            nested.append((field, value))
        elif value is None or value == "":
            yield f"# {field} ="
        else:
            yield f"{field} = {_value(field, value)}"
    for field, value in nested:
        yield ""
        yield from _table(f"{name}.{field}", value)


def _value(field: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return json.dumps(MASK if value.get_secret_value() else "")
    if field.endswith("url"):
        return json.dumps(_without_password(str(value)))
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value, default=str)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, host = parts.username or "", parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{MASK}@{host}"))
