"""What crosses a process boundary over the bus: lane entries, output entries, and the records beside them.

Every entry is one msgpack-encoded tagged struct in the field ``m`` of a Redis stream entry. Unknown fields are ignored
by the decoder, so a newer writer can talk to an older reader.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["frozen", "live"]
Ingest = Literal["live", "complete"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
Lane = Literal["control", "audio", "video"]
SessionState = Literal["starting", "live", "waiting", "closing", "closed"]


class Message(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base of all tagged messages."""


# --- control lane -----------------------------------------------------------------------------------------------------


class Ask(Message, frozen=True, kw_only=True, tag="ask"):
    """A question. ``at_ms`` is the session time that the trunk must have passed before the branch forks."""

    question_id: str
    text: str
    at_ms: int
    mode: Mode = "frozen"
    remember: bool = True
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    asked_at: float  # Unix seconds at the gateway: measures age, never orders anything


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop an answer; what it has said so far stands."""

    question_id: str


class MediaEnd(Message, frozen=True, kw_only=True, tag="media_end"):
    """No more media up to ``at_ms`` will come: questions waiting for later frames need not wait on."""

    at_ms: int


class Close(Message, frozen=True, kw_only=True, tag="close"):
    """End the session; nothing is appended after this."""

    reason: str = "client"


Control = Ask | Cancel | MediaEnd | Close

# --- media lanes ------------------------------------------------------------------------------------------------------


class Picture(Message, frozen=True, kw_only=True, tag="picture"):
    """One sampled picture, JPEG at the model's size. ``t_ms`` is session time, ``arrived_at`` Unix seconds."""

    t_ms: int
    track: int
    sequence: int
    width: int
    height: int
    jpeg: bytes
    arrived_at: float


class Sound(Message, frozen=True, kw_only=True, tag="sound"):
    """16 kHz mono s16le PCM, about 100 ms, that starts at ``t_ms``."""

    t_ms: int
    track: int
    sequence: int
    pcm: bytes
    arrived_at: float


PCM_BYTES_PER_MS = 32  # of the lanes' sound

Media = Picture | Sound

# --- output stream ----------------------------------------------------------------------------------------------------


class Owned(Message, frozen=True, kw_only=True, tag="owned"):
    """First entry of an epoch: this worker now speaks for the session. ``lost_ms`` of media could not be rebuilt."""

    worker_id: str
    lost_ms: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the question, and of the answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds since the gateway accepted the question."""

    queued_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0


class AnswerStarted(Message, frozen=True, kw_only=True, tag="answer_started"):
    """The branch has forked, from the trunk as it was at session time ``as_of_ms``."""

    question_id: str
    as_of_ms: int
    mode: Mode


class AnswerDelta(Message, frozen=True, kw_only=True, tag="answer_delta"):
    """Tokens ``index .. index + len(token_ids) - 1``. ``text`` may be empty while a character is incomplete."""

    question_id: str
    index: int
    token_ids: list[int]
    text: str


class AnswerDone(Message, frozen=True, kw_only=True, tag="answer_done"):
    """The whole answer. ``as_of_ms``: session time of the newest frame that it could see."""

    question_id: str
    text: str
    finish_reason: FinishReason
    as_of_ms: int
    usage: Usage = Usage()
    timing: Timing = Timing()


class AnswerFailed(Message, frozen=True, kw_only=True, tag="answer_failed"):
    """The question ends without an answer; ``code`` is that of an error in ``protocol.errors``."""

    question_id: str
    code: str
    message: str


class Notice(Message, frozen=True, kw_only=True, tag="notice"):
    """Something that clients should know; those who do not know its ``code`` ignore it."""

    code: str
    message: str
    data: dict[str, int | float | str] = {}


class Closed(Message, frozen=True, kw_only=True, tag="closed"):
    """The last output of a session."""

    reason: str


class Turn(Message, frozen=True, kw_only=True, tag="turn"):
    """A question and its answer that the session remembers; their place is after the frames up to ``at_ms``."""

    at_ms: int
    question: str
    answer: list[int]  # token ids


Output = Owned | AnswerStarted | AnswerDelta | AnswerDone | AnswerFailed | Notice | Closed

# --- records in hashes ------------------------------------------------------------------------------------------------


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """How long what is stored of a session is kept after it was written, in hours; None for ever."""

    retention_hours: float | None = None


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a session was opened with. ``store`` None: nothing of it is stored. ``metadata`` is the client's own.
    ``dropping``: whether what stands still is left out of its memory; None: as its worker does.
    """

    session_id: str
    tenant: str
    model: str
    fps: float
    budget_tokens: int
    policy: str
    instructions: str
    ingest: Ingest
    created_at: float
    store: Store | None = None
    metadata: dict[str, str] = {}
    dropping: bool | None = None


class SessionStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner publishes about once a second: the worker's half of a session's health."""

    trunk_time_ms: int = -1  # session time of the newest frame in the trunk, -1 before the first
    lag_ms: float = 0.0  # from the newest prefilled frame's append to its prefill
    frames_prefilled: int = 0
    frames_dropped: dict[str, int] = {}
    kv_bytes: int = 0
    kv_budget_bytes: int = 0
    tokens: int = 0
    audio_ms: int = 0


class IngestStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the session's gateway publishes about once a second: its half of a session's health."""

    session_time_ms: int = -1  # newest capture accepted, -1 before the first
    newest_at: float = 0.0  # Unix seconds at which it came
    last_frame_at: float = 0.0  # the same of the newest picture
    origin_us: int | None = None  # capture clock at session time 0, for the next gateway that feeds the session
    fps_in: float = 0.0
    fps_out: float = 0.0
    frames_in: int = 0
    frames_out: int = 0
    frames_dropped: dict[str, int] = {}
    conditions: dict[str, list[int]] = {}  # frozen, black, blocky, silent: the tracks that are so now
    audio_ms: int = 0


class QuestionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A question and, once it is there, its outcome. Kept ten minutes from the outcome on."""

    ask: Ask
    entry_id: str
    cancelled: bool = False
    started: bool = False
    outcome: AnswerDone | AnswerFailed | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """All that a gateway knows of a model."""

    name: str
    frame_width: int
    frame_height: int
    tokens_per_frame: int
    pictures_per_grid: int  # pictures that a family pairs into one temporal grid
    max_fps: float
    default_budget_tokens: int
    max_budget_tokens: int
    bytes_per_token: int
    policies: list[str]
    vision: bool = True
    audio: bool = False


class WorkerCard(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's advertisement. ``capacity_tokens`` is what its pool can reserve for sessions in all."""

    worker_id: str
    model: ModelCard
    capacity_tokens: int
    max_sessions: int
    draining: bool = False
