"""A session's three lanes, as their writers see them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, NoReturn

from protocol import keys
from protocol.codec import encode
from protocol.connection import Argument, Connection
from protocol.errors import BusFull, Conflict, LaneFull, LonglookError, NotFound, RateLimited, Replaced, SessionClosed
from protocol.ids import EntryId
from protocol.messages import PCM_BYTES_PER_MS, Ask, Cancel, Close, Lane, MediaEnd, Picture, Sound
from protocol.retention import Retention
from protocol.scripts import CONTROL, MEDIA, PUBLISHER, SHED
from protocol.sessions import heard_tracks

FULL_TRIES = 8  # a question's attempts on a bus that is full: pictures make room for it
FULL_PAUSE_S = 0.1


@dataclass(frozen=True)
class Appended:
    """An entry's id, and how many entries of its lane the owner has yet to read, this one included."""

    id: EntryId
    backlog: int


class Lanes:
    """Appends to the lanes of all sessions; each script refuses what the session's state forbids."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        self._connection = connection
        self._keep = retention

    async def ask(self, session_id: str, ask: Ask) -> EntryId:
        """Appends a question; once this returns it is accepted. Repeating the very same Ask returns its first id.

        Where the bus is full, the session's older pictures make room for it.

        Raises NotFound, SessionClosed, Conflict (the question id was used before), RateLimited (too many unanswered).
        """
        reply = await self._control(session_id, "ask", encode(ask), ask.question_id)
        return EntryId.parse(reply[1])

    async def cancel(self, session_id: str, question_id: str) -> None:
        """Asks the owner to stop an answer. Raises NotFound (session or question), SessionClosed."""
        await self._control(session_id, "cancel", encode(Cancel(question_id=question_id)), question_id)

    async def media_end(self, session_id: str, at_ms: int) -> None:
        """No more media will come. Raises NotFound, SessionClosed."""
        await self._control(session_id, "media_end", encode(MediaEnd(at_ms=at_ms)))

    async def close(self, session_id: str, reason: str = "client") -> bool:
        """Asks the owner to close; from here on nothing is appended. Closing twice is no error.

        Returns whether somebody owns the session; where nobody does, ``Sessions.finish`` ends it. Raises NotFound.
        """
        try:
            reply = await self._control(session_id, "close", encode(Close(reason=reason)))
        except SessionClosed:
            return bool(await self._connection.command("EXISTS", keys.lease(session_id)))
        return bool(reply[2])

    async def claim_publisher(self, session_id: str) -> int:
        """Makes the caller the only publisher of the media lanes and returns its generation (1, 2, ...).

        The publisher before is told by Replaced at its next append. Raises NotFound, SessionClosed.
        """
        key = keys.session(session_id)
        reply = await self._connection.run(PUBLISHER, [key], self._keep.session_ms)
        if reply[0] != b"ok":
            _refuse(reply)
        return int(reply[1])

    async def append(
        self, session_id: str, generation: int, sequence: int, media: Picture | Sound, *, lossless: bool
    ) -> Appended:
        """Appends one picture or piece of sound under the id ``<generation>-<sequence>``; sequences count from 1 in
        each lane. Safe to repeat. ``lossless`` (complete ingest): nothing unread is ever trimmed.

        Raises NotFound, SessionClosed, Replaced (a newer publisher), LaneFull (lossless only), Conflict (the id was
        used for something else).
        """
        lane: Lane = "video" if isinstance(media, Picture) else "audio"
        names = [keys.session(session_id), keys.lane(session_id, lane)]
        arguments: list[Argument] = [lane, generation, sequence, encode(media), media.t_ms]
        arguments += [self._keep.lane_ms, self._keep.lane_bytes(lane), self._keep.session_ms, int(lossless)]
        if isinstance(media, Sound):
            arguments += [media.track, media.t_ms + len(media.pcm) // PCM_BYTES_PER_MS]
        reply = await self._connection.run(MEDIA, names, *arguments)
        if reply[0] != b"ok":
            _refuse(reply)
        return Appended(EntryId.parse(reply[1]), int(reply[2]))

    async def heard(self, session_id: str) -> dict[int, int]:
        """Session time up to which the audio lane has held sound of each track; whoever claimed the lanes alone moves
        it.
        """
        fields = await self._connection.command("HGETALL", keys.session(session_id))
        return heard_tracks(fields)

    async def shed(self, session_id: str) -> int:
        """Makes room on a bus that is full, and returns how many entries went: of a live session the older half of the
        video lane, else the pictures that were read. Nothing of a session that is gone.
        """
        reply = await self._connection.run(SHED, [keys.session(session_id), keys.lane(session_id, "video")])
        return int(reply[1])

    async def backlog(self, session_id: str) -> dict[str, int]:
        """Entries of ``audio`` and ``video`` that the owner has yet to read. Raises NotFound."""
        fields = ("in:audio", "out:audio", "in:video", "out:video")
        counts = await self._connection.command("HMGET", keys.session(session_id), *fields)
        if counts[0] is None:
            raise NotFound("no such session")
        audio_in, audio_out, video_in, video_out = map(int, counts)
        return {"audio": max(0, audio_in - audio_out), "video": max(0, video_in - video_out)}

    async def _control(self, session_id: str, kind: str, payload: bytes, question_id: str = "") -> list[Any]:
        names = [keys.session(session_id), keys.lease(session_id), keys.lane(session_id, "control")]
        names.append(keys.unanswered(session_id))
        if question_id:
            names += [keys.question(session_id, question_id), keys.questions(session_id)]
        limits = (self._keep.session_ms, self._keep.question_ms, self._keep.control_ms, self._keep.unanswered)
        for tries_left in reversed(range(FULL_TRIES)):
            try:
                reply = await self._connection.run(CONTROL, names, kind, payload, question_id, *limits)
                break
            except BusFull:
                if not tries_left:
                    raise
                await self.shed(session_id)
                await asyncio.sleep(FULL_PAUSE_S)  # others make room meanwhile
        if reply[0] != b"ok":
            _refuse(reply)
        return reply


def _refuse(reply: list[Any]) -> NoReturn:
    refusals: dict[bytes, LonglookError] = {
        b"gone": NotFound("no such session"),
        b"unknown": NotFound("no such question"),
        b"closed": SessionClosed("the session is closed"),
        b"repeated": Conflict("this question id was used before", param="id"),
        b"busy": RateLimited("too many unanswered questions in this session", retry_after=1.0),
        b"replaced": Replaced("a newer publisher feeds this session"),
        b"full": LaneFull("the session's worker is behind", retry_after=0.1),
        b"refused": Conflict("this media id was used for another entry"),
    }
    raise refusals[reply[0]]
