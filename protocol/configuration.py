"""Where every process's settings come from: flags, the environment and longlook.toml, the earlier above the later."""

from __future__ import annotations

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource


class FileSettings(BaseSettings):
    """``LONGLOOK_<NAME>`` in the environment, or an entry of longlook.toml; ``toml_table_header`` names its table."""

    model_config = SettingsConfigDict(env_prefix="LONGLOOK_", frozen=True, extra="ignore", toml_file="longlook.toml")

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
