"""The launcher's own settings, and how flags reach the processes that it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

from protocol.configuration import FileSettings


class Settings(FileSettings):
    """What ``longlook serve`` is told at start. Environment: ``LONGLOOK_<NAME>``; file: table ``launcher``."""

    model_config = SettingsConfigDict(populate_by_name=True, toml_table_header=("launcher",))

    redis_url: str = Field(
        default="",
        validation_alias=AliasChoices("LONGLOOK_REDIS_URL", "REDIS_URL", "redis_url"),
        description="a Redis >= 7 or Valkey >= 8 of your own; default: an embedded one, in memory alone",
    )
    redis_megabytes: int = Field(default=2048, ge=64, description="limit of the embedded server's memory")


def put_flags(flags: Mapping[str, str | int | Path | None]) -> None:
    """Gives flags the place above the file and the environment: they become this process's ``LONGLOOK_<NAME>``.

    Children inherit them, so that one process and all of them are configured alike, and no process list shows a key.
    """
    for name, value in flags.items():
        if value is not None:
            os.environ[f"LONGLOOK_{name.upper()}"] = str(value)
