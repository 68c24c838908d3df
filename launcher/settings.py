"""The launcher's own settings, and how flags reach the processes that it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource


class Settings(BaseSettings):
    """What ``longlook serve`` is told at start. Environment: ``LONGLOOK_<NAME>``; file: table ``launcher``."""

    model_config = SettingsConfigDict(
        env_prefix="LONGLOOK_",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        toml_file="longlook.toml",
        toml_table_header=("launcher",),
    )

    redis_url: str = Field(
        default="",
        validation_alias=AliasChoices("LONGLOOK_REDIS_URL", "REDIS_URL", "redis_url"),
        description="a Redis >= 7 or Valkey >= 8 of your own; default: an embedded one, in memory alone",
    )
    redis_megabytes: int = Field(default=2048, ge=64, description="limit of the embedded server's memory")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def put_flags(flags: Mapping[str, str | int | Path | None]) -> None:
    """Gives flags the place above the file and the environment: they become this process's ``LONGLOOK_<NAME>``.

    Children inherit them, so that one process and all of them are configured alike, and no process list shows a key.
    """
    for name, value in flags.items():
        if value is not None:
            os.environ[f"LONGLOOK_{name.upper()}"] = str(value)
