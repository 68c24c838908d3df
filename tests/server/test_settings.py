from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import Limits, Settings

pytestmark = pytest.mark.unit


def test_file_then_environment_then_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "longlook.toml").write_text("[gateway]\nport = 1\nhost = '0.0.0.0'\ndrain_s = 1.0\n")
    monkeypatch.setenv("LONGLOOK_PORT", "2")
    monkeypatch.setenv("LONGLOOK_HOST", "::1")
    monkeypatch.setenv("LONGLOOK_LIMITS__SESSIONS", "3")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    settings = Settings(port=4)
    assert (settings.port, settings.host, settings.drain_s) == (4, "::1", 1.0)
    assert settings.limits.sessions == 3
    assert settings.redis_url == "redis://elsewhere"


def test_settings_are_frozen_and_keys_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGLOOK_API_KEYS", "alice:a-secret-of-alice")
    settings = Settings()
    assert "a-secret-of-alice" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.port = 1
    with pytest.raises(ValidationError):
        Limits.model_validate({"sesions": 3})


def test_every_limit_is_described() -> None:
    assert all(field.description for field in Limits.model_fields.values())
