"""What the server says about sessions, answers and models, as frozen values. Unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

Mode = Literal["frozen", "live"]
Ingest = Literal["live", "complete"]
Pace = Literal["fast", "realtime"]
Store = Literal["off", "forever"] | Mapping[str, float]
AnswerStatus = Literal["running", "done", "cancelled", "failed"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """Base: builds a value from a JSON object, taking the fields it knows."""

    @classmethod
    def from_json(cls, data: Json) -> Self:
        return cls(**{f.name: data[f.name] for f in fields(cls) if data.get(f.name) is not None})


@dataclass(frozen=True)
class SessionSettings(Record):
    fps: float = 1.0
    budget_tokens: int = 0
    policy: str = ""
    instructions: str = ""
    ingest: Ingest = "live"
    dropping: bool | None = None
    store: Store = "off"


@dataclass(frozen=True)
class Memory(Record):
    """The session's share of the worker's memory."""

    kv_bytes: int = 0
    kv_budget_bytes: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Health(Record):
    """How the stream is doing. Times are milliseconds; ``trunk_time_ms`` is what the model has seen.

    ``conditions``: what is wrong with the stream itself (frozen, black, blocky, silent), and the tracks that are so.
    """

    last_frame_age_ms: float | None = None
    session_time_ms: float | None = None
    trunk_time_ms: float | None = None
    lag_ms: float | None = None
    fps_in: float = 0.0
    fps_out: float = 0.0
    frames_in: int = 0
    frames_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    conditions: Mapping[str, list[int]] = field(default_factory=dict)
    memory: Memory = Memory()
    audio_ms: float = 0.0

    @classmethod
    def from_json(cls, data: Json) -> Self:
        memory = Memory.from_json(data.get("memory") or {})
        return super().from_json({**data, "memory": memory})


@dataclass(frozen=True)
class SessionInfo(Record):
    id: str
    model: str = ""
    state: str = ""
    created_at: float | str = 0.0
    settings: SessionSettings = SessionSettings()
    metadata: Mapping[str, str] = field(default_factory=dict)
    stored: Sequence[str] = ()
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    live_url: str = ""
    connect_token: str | None = field(default=None, repr=False)
    health: Health | None = None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        parts: dict[str, Any] = {"settings": SessionSettings.from_json(data.get("settings") or {})}
        if data.get("health"):
            parts["health"] = Health.from_json(data["health"])
        return super().from_json({**data, **parts})


@dataclass(frozen=True)
class Frame:
    """A recorded frame: JPEG, its session time in milliseconds, and its track."""

    jpeg: bytes
    t_ms: int
    track: int


@dataclass(frozen=True)
class Clip:
    """A clip that was saved. It begins at ``start_ms`` of session time; ``source`` is what it was made of."""

    start_ms: int
    source: Literal["media", "frames"]
    size: int


@dataclass(frozen=True)
class Usage(Record):
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Timing(Record):
    """Milliseconds since the server accepted the question."""

    queued_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class Delta(Record):
    """A piece of an answer. ``index`` counts tokens; ``text`` may be empty while a character is incomplete."""

    text: str
    index: int = 0
    token_ids: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, data: Json) -> Self:
        return super().from_json({**data, "token_ids": tuple(data.get("token_ids") or ())})


@dataclass(frozen=True)
class AnswerResult(Record):
    """A whole answer. ``as_of_ms`` is the session time of what it is about."""

    id: str
    text: str = ""
    status: AnswerStatus = "done"
    question: str = ""
    mode: Mode = "frozen"
    as_of_ms: float | None = None
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    timing: Timing = Timing()
    error: Json | None = None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        usage, timing = Usage.from_json(data.get("usage") or {}), Timing.from_json(data.get("timing") or {})
        return super().from_json({**data, "usage": usage, "timing": timing})


@dataclass(frozen=True)
class FrameShape(Record):
    width: int = 0
    height: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Model(Record):
    id: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    frame: FrameShape = FrameShape()
    max_fps: float = 0.0
    default_budget_tokens: int = 0
    max_budget_tokens: int = 0

    @classmethod
    def from_json(cls, data: Json) -> Self:
        return super().from_json({**data, "frame": FrameShape.from_json(data.get("frame") or {})})


@dataclass(frozen=True)
class MediaReceipt(Record):
    """Media was taken. ``frames`` and ``duration_ms`` are known when the upload waited for the end."""

    media_id: str = ""
    kind: str = ""
    start_ms: float = 0.0
    frames: int | None = None
    duration_ms: float | None = None


@dataclass(frozen=True)
class Source(Record):
    """A camera or file that the server pulls. ``track`` is that of its pictures; ``error`` says why it is not live."""

    name: str
    url: str = ""
    track: int = 0
    state: str = "connecting"
    error: str | None = None
    codecs: Mapping[str, str] = field(default_factory=dict)
    last_frame_age_ms: float | None = None
    lag_ms: float = 0.0
    reconnects: int = 0


@dataclass(frozen=True)
class Notice(Record):
    """Something that the server wants known, such as ``frames_dropped`` or ``branch_went_live``."""

    code: str
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Connection:
    """The live socket was lost, or is back."""

    connected: bool
