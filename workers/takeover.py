"""What a new owner finds out about the session before it speaks for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from protocol.bus import Bus
from protocol.ids import START, EntryId
from protocol.leases import Lease
from protocol.messages import AnswerDelta, AnswerStarted, Turn


@dataclass(frozen=True)
class Before:
    """``lost_ms`` of the session lie before what the video lane still holds, which ends at ``video_end``. ``turns`` are
    the questions and answers that it remembers, none placed after the last picture that will come.
    """

    lost_ms: int = 0
    video_end: EntryId = START
    turns: Sequence[Turn] = ()


async def find_before(bus: Bus, lease: Lease) -> Before:
    """What there is to rebuild; nothing for a session's first owner."""
    if lease.epoch == 1:
        return Before()
    oldest = await bus.leases.oldest_picture(lease.session_id)
    last_ms = -1 if oldest is None else lease.newest_ms
    turns = [
        msgspec.structs.replace(turn, at_ms=min(turn.at_ms, last_ms))
        for turn in await bus.outputs.turns(lease.session_id)
    ]
    if oldest is None:
        return Before(lost_ms=max(0, lease.newest_ms), turns=turns)
    video_end = await bus.leases.newest(lease.session_id, "video")
    return Before(lost_ms=oldest.t_ms, video_end=video_end, turns=turns)


async def published_tokens(bus: Bus, session_id: str, question_ids: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Of each of these questions the tokens of its answer that owners before have published; nothing of those whose
    beginning is no longer kept.
    """
    answers: dict[str, list[int]] = {}
    after = START
    while page := await bus.outputs.since(session_id, after):
        for event in page:
            match event.output:
                case AnswerStarted(question_id=name) if name in question_ids:
                    answers[name] = []
                case AnswerDelta(question_id=name, token_ids=tokens) if name in answers:
                    answers[name] += tokens
        after = page[-1].id
    return {name: tuple(tokens) for name, tokens in answers.items()}
