"""The worker's settings: one frozen object, from defaults, longlook.toml, the environment and flags, in that order."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from protocol.configuration import FileSettings


class Settings(FileSettings):
    """What a worker is told at start. Environment: ``LONGLOOK_<NAME>``; file: ``longlook.toml``, table ``worker``."""

    model_config = SettingsConfigDict(protected_namespaces=(), toml_table_header=("worker",))

    redis_url: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    health_host: str = "127.0.0.1"
    health_port: int = Field(default=0, ge=0, le=65_535, description="serves /livez and /readyz; 0: nothing is served")

    model: str = Field(default="mini", description="bundled name, folder of weights, or organisation/name on the hub")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    cache_dir: Path | None = Field(default=None, description="where downloads are kept; default: the hub's own")
    offline: bool = Field(default=False, description="download nothing")
    check_books: bool = Field(default=False, description="audit the memory at every compaction; takes time")
    random_weights: bool = Field(default=False, description="read no weights, draw them: for measuring speed alone")
    device: Literal["cpu", "cuda"] = "cpu"
    tensor_parallel: int | None = Field(default=None, ge=1, description="GPUs that one model is divided among")
    dtype: Literal["float32", "bfloat16"] | None = Field(default=None, description="default: by device")
    weights: Literal["fp8"] | None = Field(default=None, description="matrices in eight bits; default: in dtype")
    trained_length: int | None = Field(default=None, description="largest distance of positions; default: the model's")
    pool_tokens: int | None = Field(default=None, description="KV slots of all sessions together; default: by device")
    step_tokens: int | None = Field(default=None, description="decoder tokens in one step; default: by device")
    step_pictures: int | None = Field(default=None, description="pictures to encode in one step; default: by device")
    slo_itl_ms: float | None = Field(
        default=None, gt=0, description="steps are measured at start, and sized so that tokens come at least so often"
    )
    kv_dtype: Literal["fp8"] | None = Field(default=None, description="memory in eight bits; default: in dtype")
    head_groups: int | None = Field(default=None, ge=1, description="groups of KV heads that keep their own tokens")
    drop_threshold: int | None = Field(
        default=None, ge=0, le=255, description="patches whose colours changed by no more are not kept; 0: all are"
    )
    drop_whole: int | None = Field(
        default=None, ge=0, description="with drop_threshold: of so many pictures one is kept whole; 0: none is"
    )
    afterimages: int | None = Field(
        default=None, ge=0, description="sessions of which the vision tower then remembers what stands still"
    )
    threads: int | None = Field(default=None, description="CPU threads of torch; default: its own")
    start_s: float = Field(default=600.0, gt=0, description="the model may take so long to load or download")

    max_sessions: int = Field(default=32, ge=1, description="sessions at a time, however small their budgets")
    live_lag_s: float = Field(default=2.0, gt=0, description="a live frame older than this is dropped, not prefilled")
    live_wait_s: float = Field(default=0.3, ge=0, description="a live question waits for its moment's frames")
    complete_wait_s: float = Field(default=600.0, ge=0, description="the same, where the ingest is complete")
    rebuild_s: float = Field(default=30.0, ge=0, description="the same, while a session is rebuilt from its lanes")
    idle_s: float = Field(default=900.0, gt=0, description="a session to which nothing is sent is closed")
    drain_s: float = Field(default=30.0, ge=0, description="wait for answers under way after SIGTERM")
    decode_threads: int = Field(default=2, ge=1)
    frames_under_way: int = Field(default=8, ge=1, description="frames of one session between lane and trunk")

    def engine_arguments(self) -> list[str]:
        """What the engine process is started with."""
        options = ("model", "revision", "cache_dir", "device", "tensor_parallel", "dtype", "weights", "trained_length")
        sizes = ("pool_tokens", "step_tokens", "step_pictures", "slo_itl_ms", "threads")
        arguments: list[str] = []
        for name in (*options, *sizes, "kv_dtype", "head_groups", "drop_threshold", "drop_whole", "afterimages"):
            value = getattr(self, name)
            if value is not None:
                arguments += [f"--{name.replace('_', '-')}", str(value)]
        switches = ("offline", "random_weights", "check_books")
        return [*arguments, *(f"--{name.replace('_', '-')}" for name in switches if getattr(self, name))]
