from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from workers.models import hub
from workers.models.errors import CheckpointError

pytestmark = pytest.mark.unit

NAME = "Qwen/Qwen2.5-VL-3B-Instruct"
RESPONSE: Any = httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, model: Path) -> list[dict[str, Any]]:
    """A hub that has every model; records what was asked of it."""
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(model)

    monkeypatch.setattr(hub, "snapshot_download", download)
    return asked


def test_a_folder_is_itself(model: Path, calls: list[dict[str, Any]]) -> None:
    assert hub.resolve(str(model)) == model
    assert calls == []


def test_a_bundled_name_comes_before_anything_else(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(hub, "BUNDLED", tmp_path)
    assert hub.resolve("model") == model
    assert calls == []


def test_a_hub_name_is_downloaded(model: Path, tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    assert hub.resolve(NAME, revision="v2", cache=tmp_path, offline=True) == model
    (call,) = calls
    assert (call["name"], call["revision"], call["cache_dir"], call["local_files_only"]) == (NAME, "v2", tmp_path, True)
    assert "*.safetensors" in call["allow_patterns"]


@pytest.mark.parametrize("source", ["nothing", "a/b/c", "", "../up", "what is this?"])
def test_what_is_no_name_at_all_is_never_asked_of_the_hub(source: str, calls: list[dict[str, Any]]) -> None:
    with pytest.raises(CheckpointError):
        hub.resolve(source)
    assert calls == []


def test_a_folder_without_a_model_is_named(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        hub.resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("error", "offline", "message"),
    [
        (GatedRepoError("no", response=RESPONSE), False, "accept its licence"),
        (RevisionNotFoundError("no", response=RESPONSE), False, "no revision 'v2'"),
        (RepositoryNotFoundError("no", response=RESPONSE), False, "the hub has no model"),
        (LocalEntryNotFoundError("no"), True, "offline was asked for"),
        (LocalEntryNotFoundError("no"), False, "the hub cannot be reached"),
        (HfHubHTTPError("busy", response=RESPONSE), False, "could not be downloaded: busy"),
        (OSError("disk full"), False, "disk full"),
        (httpx.ReadError("cut off"), False, "could not be downloaded: cut off"),
    ],
)
def test_each_failure_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, offline: bool, message: str
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=message):
        hub.resolve(NAME, revision="v2", offline=offline)
