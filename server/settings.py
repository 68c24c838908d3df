"""The gateway's settings: one frozen object, from defaults, longlook.toml, the environment and flags, in that order."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from protocol.configuration import FileSettings
from server.sources.addresses import Policy

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[1]


class Limits(BaseModel):
    """Every bound on what a client can make the gateway do, in one table. Environment: ``LONGLOOK_LIMITS__<NAME>``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message_bytes: int = Field(default=8 * MIB, description="one WebSocket message, or a picture or PCM body by REST")
    control_bytes: int = Field(default=64 << 10, description="one JSON control message, or a JSON body by REST")
    question_chars: int = Field(default=8_192, description="a question's text")
    instructions_chars: int = Field(default=8_192, description="a session's instructions")
    metadata_pairs: int = Field(default=16, description="a session's metadata")
    metadata_key_chars: int = Field(default=64, description="a key of it")
    metadata_value_chars: int = Field(default=512, description="a value of it")
    answer_tokens: int = Field(default=1_024, description="max_tokens of one answer")
    picture_pixels: int = Field(default=25_000_000, description="one picture, by its header, before it is decoded")
    webp_pixels: int = Field(default=12_500_000, description="one WebP picture, which costs more to decode than others")
    sound_s: float = Field(default=60.0, description="one piece of PCM, by socket or by REST")
    video_pixels: int = Field(default=8_912_896, description="a picture of a video, of which a decoder holds several")
    preamble_bytes: int = Field(default=256 << 10, description="an init segment, or a stream's parameter sets")
    file_bytes: int = Field(default=512 * MIB, description="one video file")
    tracks: int = Field(default=16, description="tracks of one session")
    sources: int = Field(default=8, description="sources of one session")
    tenant_sources: int = Field(default=64, description="sources of one tenant")

    sessions: int = Field(default=64, description="open sessions of one tenant")
    sockets: int = Field(default=256, description="live sockets and event streams of one tenant")
    uploads: int = Field(default=8, description="file uploads of one tenant at a time")
    exports: int = Field(default=4, description="clips of one tenant that are being made")
    requests_per_s: float = Field(
        default=100.0, description="REST requests of one tenant, on average; bursts of twice as many"
    )
    questions_per_s: float = Field(
        default=10.0, description="questions of one tenant, on average; bursts of twice as many"
    )

    bytes_per_s: float = Field(
        default=64.0 * MIB, gt=0, description="media bytes of one tenant, on average; what comes faster is held back"
    )

    decode_s: float = Field(default=5.0, description="wait for a decoder's next result before it is killed")
    decode_cpu_s: float = Field(default=0.5, description="processor time for one picture or piece of sound")
    file_cpu_s: int = Field(default=1_800, description="processor time for one whole file")
    decoder_bytes: int = Field(default=224 * MIB, description="memory of a decoder process, beside its libraries")
    send_s: float = Field(default=10.0, description="wait for a client to take what is sent to it")
    body_s: float = Field(default=30.0, description="wait for the next piece of a request's body")
    head_s: float = Field(default=10.0, description="wait for a request's head")
    ask_s: float = Field(default=0.5, description="a question waits for the pictures before it to be decoded")
    answer_s: float = Field(default=60.0, description="a REST question waits for its answer")
    unowned_s: float = Field(default=15.0, description="a question waits for its session to have a worker")
    stall_s: float = Field(default=120.0, description="media of a complete session wait for the worker")
    backlog: int = Field(default=48, description="pictures of a complete session that the worker has yet to read")
    connect_token_s: int = Field(default=60, description="life of a connect token")
    resume_token_s: int = Field(default=600, description="life of a resume token; it is replaced three times as often")


class JournalSettings(BaseModel):
    """What may be kept on disk of sessions that ask for it. Environment: ``LONGLOOK_JOURNAL__<NAME>``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dir: Path | None = Field(default=None, description="where recordings lie; without it no session can be recorded")
    keys_dir: Path | None = Field(default=None, description="where the sessions' sealed keys lie; default: DIR/keys")
    key: SecretStr = Field(default=SecretStr(""), description="the server's key, 64 hexadecimal digits; or several")
    key_file: Path | None = Field(default=None, description="a file with the same; its first key seals, all open")
    tenant_bytes: int = Field(default=64 << 30, gt=0, description="on disk, of one tenant's sessions together")
    segment_bytes: int = Field(default=16 * MIB, gt=0, description="a segment is closed when it has so many")
    segment_s: float = Field(default=300.0, gt=0, description="or is so old: what expires are whole segments")
    queue_bytes: int = Field(default=64 * MIB, gt=0, description="waiting to be written; more is dropped, and reported")
    clip_s: float = Field(default=3_600.0, gt=0, description="longest span of one clip")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dir is not None and not self.key.get_secret_value() and self.key_file is None:
            raise ValueError("journal.dir needs journal.key or journal.key_file")
        if self.tenant_bytes < 2 * self.segment_bytes:
            raise ValueError("journal.tenant_bytes must hold two segments at least")
        return self


class SourceSettings(BaseModel):
    """How cameras and files are pulled. Environment: ``LONGLOOK_SOURCES__<NAME>``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[str, ...] = Field(
        default=(), description="networks (CIDR) and hosts' names that may be pulled from though they are not public"
    )
    ca_file: Path | None = Field(
        default=None, description="certificates that vouch for rtsps and https servers; default: the public ones"
    )
    memory_bytes: int = Field(default=256 * MIB, gt=0, description="memory of one puller process")
    connect_s: float = Field(default=5.0, gt=0, description="wait for a name or a connection")
    frozen_s: float = Field(default=5.0, gt=0, description="a source without a picture for so long is frozen")
    dead_s: float = Field(default=15.0, gt=0, description="and one for so long is connected to again")
    slow_s: float = Field(default=2.0, gt=0, description="a source whose media come so much later is slow")
    late_s: float = Field(default=15.0, gt=0, description="and one so late is connected to again, at the present")
    retry_s: float = Field(default=0.5, gt=0, description="first wait before another try; it doubles")
    retry_most_s: float = Field(default=30.0, gt=0, description="longest wait before another try")

    @field_validator("allow")
    @classmethod
    def _understood(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        Policy.of(allow)
        return allow


class Settings(FileSettings):
    """What a gateway is told at start. Environment: ``LONGLOOK_<NAME>``; file: ``longlook.toml``, table ``gateway``."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", toml_table_header=("gateway",))

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    listen_fd: int | None = Field(default=None, description="a listening socket that was inherited, in place of both")
    redis_url: str = Field(
        default="redis://127.0.0.1:6379", validation_alias=AliasChoices("LONGLOOK_REDIS_URL", "REDIS_URL", "redis_url")
    )
    api_keys: SecretStr = Field(
        default=SecretStr(""), description="comma separated, each [tenant:]key or tenant:sha256:hex"
    )
    api_keys_file: Path | None = Field(
        default=None, description="one key a line, in the same forms; read again when it changes"
    )
    origins: tuple[str, ...] = Field(
        default=(), description="origins whose pages may open sockets, besides the gateway's own"
    )
    web_dir: Path = Field(default=ROOT / "clients" / "web", description="the page served at /")
    spool_dir: Path | None = Field(
        default=None, description="where uploads lie while they are read; default: the system's"
    )
    unsafe_decoder: bool = Field(
        default=False, description="take media even where the system cannot confine decoder processes"
    )
    jpeg_quality: int = Field(default=90, ge=50, le=100, description="of the pictures handed to the model")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_s: float = Field(default=30.0, ge=0, description="wait for answers under way after SIGTERM")
    limits: Limits = Limits()
    sources: SourceSettings = SourceSettings()
    journal: JournalSettings = JournalSettings()
