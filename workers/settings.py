"""The worker's settings: one frozen object, from defaults, longlook.toml, the environment and flags, in that order."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

ROOT = Path(__file__).resolve().parents[1]


class Settings(BaseSettings):
    """What a worker is told at start. Environment: ``LONGLOOK_<NAME>``; file: ``longlook.toml``, table ``worker``."""

    model_config = SettingsConfigDict(
        env_prefix="LONGLOOK_",
        frozen=True,
        extra="ignore",
        protected_namespaces=(),
        toml_file="longlook.toml",
        toml_table_header=("worker",),
    )

    redis_url: str = ""
    model: str = Field(default=str(ROOT / "models" / "mini"), description="a folder of weights, or a hub name")
    max_sessions: int = Field(default=32, ge=1, description="sessions at a time, however small their budgets")
    live_lag_s: float = Field(default=2.0, gt=0, description="a live frame older than this is dropped, not prefilled")
    live_wait_s: float = Field(default=0.3, ge=0, description="a live question waits for its moment's frames")
    complete_wait_s: float = Field(default=600.0, ge=0, description="the same, where the ingest is complete")
    rebuild_s: float = Field(default=30.0, ge=0, description="the same, while a session is rebuilt from its lanes")
    idle_s: float = Field(default=900.0, gt=0, description="a session to which nothing is sent is closed")
    drain_s: float = Field(default=30.0, ge=0, description="wait for answers under way after SIGTERM")
    decode_threads: int = Field(default=2, ge=1)
    frames_under_way: int = Field(default=8, ge=1, description="frames of one session between lane and trunk")

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
