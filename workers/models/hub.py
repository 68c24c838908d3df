"""From what a user names (a bundled model, a folder, a name on the Hugging Face hub) to a folder on disk."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from workers.models.errors import CheckpointError

BUNDLED = Path(__file__).resolve().parents[2] / "models"

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_NEEDED_FILES = ["*.json", "*.safetensors"]


def resolve(source: str, *, revision: str | None = None, cache: Path | None = None, offline: bool = False) -> Path:
    """The folder of a model.

    `source` is the name of a bundled model (`mini`), a folder, or `organisation/name` on the hub, of which `revision`
    (a branch, tag or commit; default: the main branch) is downloaded into `cache` (default: the hub's own) unless it
    is there already. With `offline` nothing is downloaded. CheckpointError says what to do if there is no such model.
    """
    for folder in (BUNDLED / source, Path(source).expanduser()):
        if (folder / "config.json").is_file():
            return folder
    if Path(source).expanduser().exists():
        raise CheckpointError(f"{source} is no Hugging Face model folder: it has no config.json")
    if not _HUB_NAME.fullmatch(source):
        bundled = ", ".join(sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))) or "none"
        raise CheckpointError(
            f"no model {source!r}: give a bundled name ({bundled}), a folder, or a hub name such as "
            "Qwen/Qwen2.5-VL-3B-Instruct"
        )
    return _downloaded(source, revision, cache, offline)


def _downloaded(name: str, revision: str | None, cache: Path | None, offline: bool) -> Path:
    try:
        folder = snapshot_download(
            name, revision=revision, cache_dir=cache, local_files_only=offline, allow_patterns=_NEEDED_FILES
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its licence on the hub, then set HF_TOKEN to a token that may read it"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"the hub has no model {name}, or it is private and HF_TOKEN may not read it") from error
    except LocalEntryNotFoundError as error:
        why = "offline was asked for" if offline else "the hub cannot be reached"
        raise CheckpointError(
            f"{name} is not in the cache and {why}: download it once where there is a network, or give its folder"
        ) from error
    except Exception as error:  # the network's failures come in the types of the hub client's own HTTP library
        raise CheckpointError(f"{name} could not be downloaded: {error}") from error
    return Path(folder)
