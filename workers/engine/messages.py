"""What worker and engine say to each other over their local socket. Pixels travel beside it, in shared memory.

The worker starts `python -m workers.engine` with one end of a Unix socket pair and the descriptor of a nameless file as
inherited descriptors (`client.py` does it). On the socket every message is an unsigned 32-bit big-endian length and one
msgpack-encoded tagged struct (`wire.py`). The file is the pixel ring (`ring.py`): fixed-size slots that the worker
hands out, writes an RGB picture into, names in PushFrame, and has back with the FrameTaken that answers every PushFrame
exactly once. Times called monotonic are CLOCK_MONOTONIC seconds, which all processes of a machine share.

The engine's first event is Ready, or Failed if its model cannot be loaded. Every AskQuestion ends in exactly one
QuestionDone or Refused, every OpenSession is answered by Opened or Refused. When either side closes the socket, the
engine ends.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.messages import FinishReason, Message, Mode, ModelCard

Outcome = Literal[
    "prefilled",
    "dropped_late",
    "dropped_rate",
    "dropped_similar",
    "dropped_full",
    "dropped_closed",
    "dropped_invalid",
]

# --- worker -> engine -------------------------------------------------------------------------------------------------


class OpenSession(Message, frozen=True, kw_only=True, tag="open"):
    session_id: str
    budget_tokens: int
    policy: str
    instructions: str
    complete: bool  # complete ingest: no frame is dropped for being late
    dropping: bool | None = None  # whether what stands still is not written; None: as the engine is set
    alone: bool = False  # its work shares no step with others': it is suspected of having ended an engine


class PushFrame(Message, frozen=True, kw_only=True, tag="frame"):
    """One picture, RGB uint8 [height, width, 3], in slot ``slot`` of the shared pixel ring; freed by FrameTaken.

    ``t_ms`` never falls within a session; ``deadline`` matters to live sessions, which drop a frame that is past it.
    ``look``: the mean colours of its blocks (perception's `means`), where whoever decoded it has taken them already.
    """

    session_id: str
    sequence: int
    t_ms: int
    slot: int
    width: int
    height: int
    deadline: float  # time.monotonic() by which it should be in the trunk
    look: bytes = b""


class EndMedia(Message, frozen=True, kw_only=True, tag="end_media"):
    """Nothing is on its way: no question need wait for a frame, until the next one is pushed."""

    session_id: str


class AskQuestion(Message, frozen=True, kw_only=True, tag="ask"):
    """``wait_until`` (time.monotonic()) bounds the wait for ``at_ms``.

    ``prefix``: tokens of this answer that were already published. They are forced again and not sent again: the first
    Tokens event continues at index ``len(prefix)``, and QuestionDone's text holds them.
    """

    session_id: str
    question_id: str
    text: str
    at_ms: int
    wait_until: float
    mode: Mode = "frozen"
    remember: bool = True
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    prefix: tuple[int, ...] = ()


class RememberTurn(Message, frozen=True, kw_only=True, tag="remember"):
    """A question and answer of before, for a memory that is being rebuilt: text after the frames up to ``at_ms``."""

    session_id: str
    at_ms: int
    question: str
    answer: tuple[int, ...]


class CancelQuestion(Message, frozen=True, kw_only=True, tag="cancel"):
    session_id: str
    question_id: str


class CloseSession(Message, frozen=True, kw_only=True, tag="close"):
    session_id: str


class Shutdown(Message, frozen=True, kw_only=True, tag="shutdown"):
    pass


Command = OpenSession | PushFrame | EndMedia | AskQuestion | RememberTurn | CancelQuestion | CloseSession | Shutdown

# --- engine -> worker -------------------------------------------------------------------------------------------------


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    card: ModelCard
    capacity_tokens: int
    frame_seconds: float = 0.0  # of step time that a frame takes, as measured; 0: unknown


class Opened(Message, frozen=True, kw_only=True, tag="opened"):
    session_id: str
    kv_budget_bytes: int


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """A command that could not be carried out; ``question_id`` is empty where it concerns the session.

    Codes: unknown_session, duplicate_session, unknown_policy, no_capacity, budget_too_small, duplicate_question,
    question_too_long, session_closed, internal.
    """

    session_id: str
    question_id: str = ""
    code: str
    message: str


class FrameTaken(Message, frozen=True, kw_only=True, tag="frame_taken"):
    """The slot is free again. ``outcome`` says what became of the frame.

    ``tokens`` and ``kv_bytes`` are what the session holds after it: tokens in its trunk, bytes of pages in all.
    ``dropped_rate``: its session comes with more frames than there is time for, and each is capped alike.
    ``dropped_similar``: it brought nothing new, and time went on in the trunk as if it had been written.
    ``dropped_full``: the policy keeps everything and the budget is used up. ``dropped_closed``: its session is gone.
    ``dropped_invalid``: no such slot, or a picture that is empty, too large or too oblong.
    """

    session_id: str
    sequence: int
    t_ms: int
    slot: int
    outcome: Outcome
    tokens: int = 0
    kv_bytes: int = 0


class QuestionStarted(Message, frozen=True, kw_only=True, tag="started"):
    session_id: str
    question_id: str
    as_of_ms: int
    mode: Mode
    prompt_tokens: int


class Tokens(Message, frozen=True, kw_only=True, tag="tokens"):
    session_id: str
    question_id: str
    index: int
    token_ids: list[int]
    text: str


class QuestionDone(Message, frozen=True, kw_only=True, tag="done"):
    session_id: str
    question_id: str
    finish_reason: FinishReason
    text: str
    as_of_ms: int
    completion_tokens: int


class EngineNotice(Message, frozen=True, kw_only=True, tag="notice"):
    """Codes: branch_went_live, not_remembered, frame_rate_lowered, frame_rate_restored."""

    session_id: str
    question_id: str = ""
    code: str
    message: str


class SessionClosed(Message, frozen=True, kw_only=True, tag="closed"):
    session_id: str


class Working(Message, frozen=True, kw_only=True, tag="working"):
    """Whose work is under way from the next step on: where the engine ends without a word, one of these did it."""

    session_ids: list[str]


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The engine's last words: it cannot start, or cannot go on."""

    message: str


class StepStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since start, sent about once a second; `effort` is what frames take of late, of what whole ones do."""

    steps: int
    frames: int
    decode_tokens: int
    question_tokens: int
    pages_used: int
    pages_total: int
    vision_seconds: float
    decoder_seconds: float
    queued_frames: int
    effort: float = 1.0


class Stats(Message, frozen=True, kw_only=True, tag="stats"):
    stats: StepStats


Event = (
    Ready
    | Opened
    | Refused
    | FrameTaken
    | QuestionStarted
    | Tokens
    | QuestionDone
    | EngineNotice
    | SessionClosed
    | Stats
    | Working
    | Failed
)
