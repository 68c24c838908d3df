"""What a new owner finds out about the session before it speaks for it."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.bus import Bus
from protocol.ids import START, EntryId
from protocol.leases import Lease
from protocol.messages import AnswerDelta


@dataclass(frozen=True)
class Before:
    """``lost_ms`` of the session lie before what the video lane still holds, which ends at ``video_end``."""

    lost_ms: int = 0
    video_end: EntryId = START


async def find_before(bus: Bus, lease: Lease) -> Before:
    """What there is to rebuild; nothing for a session's first owner."""
    if lease.epoch == 1:
        return Before()
    oldest = await bus.leases.oldest_picture(lease.session_id)
    if oldest is None:
        return Before(lost_ms=max(0, lease.newest_ms))
    return Before(lost_ms=oldest.t_ms, video_end=await bus.leases.newest(lease.session_id, "video"))


async def published_tokens(bus: Bus, session_id: str, question_id: str) -> tuple[int, ...] | None:
    """The tokens of an answer that owners before have published; None where some of them are gone."""
    tokens: list[int] = []
    for event in await bus.outputs.since(session_id):
        delta = event.output
        if isinstance(delta, AnswerDelta) and delta.question_id == question_id:
            if delta.index != len(tokens):
                return None
            tokens += delta.token_ids
    return tuple(tokens)
