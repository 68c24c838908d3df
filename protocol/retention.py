"""How long each kind of key lives, and how much a lane holds."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import Lane


@dataclass(frozen=True)
class Retention:
    """Milliseconds and bytes. The lanes' seconds are what a session can be rebuilt from."""

    lease_ms: int = 5_000
    reservation_ms: int = 15_000  # room that a gateway reserved, until the worker owns the session
    adoption_ms: int = 2_000  # a worker that found an orphan takes it within this time, or others may try
    worker_ms: int = 5_000  # a worker that is silent for longer takes no new session
    sources_ms: int = 6_000  # a gateway that is silent for longer pulls no more: another one does
    session_ms: int = 900_000  # keys of a session that nobody touches
    closed_ms: int = 600_000  # the record of a closed session
    index_ms: int = 86_400_000
    lane_ms: int = 60_000
    control_ms: int = 600_000
    output_ms: int = 120_000
    question_ms: int = 3_600_000  # a question that nobody answers
    answer_ms: int = 600_000
    crash_ms: int = 600_000  # how long a session is suspected of what happened to its worker's engine
    video_bytes: int = 32 << 20
    audio_bytes: int = 8 << 20
    unanswered: int = 64  # questions of one session without an outcome
    turns: int = 64  # remembered questions and answers of one session, from which its memory can be rebuilt

    def lane_bytes(self, lane: Lane) -> int:
        return self.audio_bytes if lane == "audio" else self.video_bytes
