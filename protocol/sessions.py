"""Session records: what a session was opened with, who owns it, and how it is."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from protocol import keys
from protocol.codec import decode, encode
from protocol.connection import Connection
from protocol.errors import Conflict, NotFound, SessionClosed
from protocol.messages import Closed, IngestStats, MediaEnd, SessionSpec, SessionState, SessionStats
from protocol.retention import Retention
from protocol.scripts import ERASE, FINISH, ONCE, OPEN

PREAMBLE = "preamble:"
HEARD = "heard:"


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the bus knows it now."""

    spec: SessionSpec
    state: SessionState
    worker_id: str
    epoch: int
    publisher: int  # generation of the newest publisher, 0 before the first
    newest_ms: int  # session time of the newest picture appended, -1 before the first
    media_end: MediaEnd | None
    reason: str  # why it was closed
    fenced: int  # times that an owner of before was refused when it spoke on
    stats: SessionStats
    ingest: IngestStats
    preambles: dict[int, bytes]  # by track: what its decoding must begin with, for the next gateway
    heard: dict[int, int]  # by track: session time up to which its sound has come

    @property
    def over(self) -> bool:
        """Whether the session takes nothing more."""
        return self.state in ("closing", "closed")

    def check_usable(self) -> None:
        """Raises SessionClosed."""
        if self.over:
            raise SessionClosed(f"the session was closed: {self.reason or 'client'}")


class Sessions:
    """The records of all sessions."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        self._connection = connection
        self._keep = retention

    async def open(self, spec: SessionSpec, worker_id: str, *, epoch: int = 0, newest_ms: int = -1) -> None:
        """Writes the record of a new session that has room on ``worker_id``. Safe to repeat. A session that was on a
        server before begins above its last ``epoch``, and tells how much of it (``newest_ms``) is lost.

        Raises Conflict where the id names another session.
        """
        key = keys.session(spec.session_id)
        keep = self._keep.session_ms
        reply = await self._connection.run(OPEN, [key], encode(spec), worker_id, keep, epoch, newest_ms)
        if reply[0] != b"ok":
            raise Conflict("this session id is taken")
        index = keys.tenant(spec.tenant)
        await self._connection.command("ZADD", index, spec.created_at, spec.session_id)
        await self._connection.command("PEXPIRE", index, self._keep.index_ms)

    async def get(self, session_id: str) -> SessionRecord:
        """Raises NotFound."""
        fields = await self._connection.command("HGETALL", keys.session(session_id))
        if b"spec" not in fields:
            raise NotFound("no such session")
        owned = await self._connection.command("EXISTS", keys.lease(session_id))
        return _record(fields, owned=bool(owned))

    async def of_tenant(self, tenant: str) -> list[SessionRecord]:
        """The tenant's sessions that still have a record, oldest first. Forgets those that have none."""
        index = keys.tenant(tenant)
        records: list[SessionRecord] = []
        for name in await self._connection.command("ZRANGE", index, 0, -1):
            try:
                records.append(await self.get(name.decode()))
            except NotFound:
                await self._connection.command("ZREM", index, name)
        return records

    async def publish_ingest(self, session_id: str, stats: IngestStats) -> None:
        """The gateway's half of the session's health. Ignored once the record is gone."""
        key = keys.session(session_id)
        if await self._connection.command("EXISTS", key):
            await self._connection.command("HSET", key, "ingest", encode(stats))
            await self._connection.command("PEXPIRE", key, self._keep.session_ms)

    async def keep_preamble(self, session_id: str, track: int, preamble: bytes) -> None:
        """What decoding of a track begins with. Ignored once the record is gone."""
        key = keys.session(session_id)
        if await self._connection.command("EXISTS", key):
            await self._connection.command("HSET", key, f"{PREAMBLE}{track}", preamble)
            await self._connection.command("PEXPIRE", key, self._keep.session_ms)

    async def finish(self, session_id: str, reason: str, *, worker_id: str = "", epoch: int = 0) -> bool:
        """Says Closed on the output stream, marks the record closed and drops the lanes.

        The owner names itself; anyone may finish a session that nobody owns. Returns whether the session is closed now.
        """
        closed = encode(Closed(reason=reason))
        names = [
            keys.session(session_id),
            keys.lease(session_id),
            *(keys.lane(session_id, lane) for lane in keys.LANES),
        ]
        names += [keys.unanswered(session_id), keys.output(session_id), keys.turns(session_id)]
        names.append(keys.questions(session_id))
        limits = (self._keep.closed_ms, keys.question(session_id, ""))
        reply = await self._connection.run(FINISH, names, worker_id, epoch, closed, reason, *limits)
        return bool(reply[0] in (b"ok", b"gone"))

    async def erase(self, spec: SessionSpec) -> None:
        """Leave nothing that the session's client sent or was told: at once where it is closed, else when it will be.

        What stays for its time is a record without content, which says that the session is closed.
        """
        session_id = spec.session_id
        names = [keys.session(session_id), keys.output(session_id), keys.questions(session_id)]
        names += [keys.sources(session_id), keys.source_states(session_id)]
        bare = encode(msgspec.structs.replace(spec, instructions="", metadata={}))
        await self._connection.run(ERASE, names, bare, keys.question(session_id, ""))

    async def once(self, scope: str, key: str, body_digest: str, value: bytes) -> bytes | None:
        """Idempotency: the first use of ``key`` in ``scope`` (tenant or session) stores ``value`` and gets None, later
        ones get the value stored. Kept ten minutes. Raises Conflict where the body differs from the first use's.
        """
        name = keys.idempotency(scope, key)
        word, stored = await self._connection.run(ONCE, [name], body_digest, value, self._keep.answer_ms)
        if word == b"conflict":
            raise Conflict("this idempotency key was used with another body")
        return None if word == b"new" else bytes(stored)

    async def forget_once(self, scope: str, key: str) -> None:
        """Frees an idempotency key whose request failed before it had an effect."""
        await self._connection.command("DEL", keys.idempotency(scope, key))


def _record(fields: dict[bytes, bytes], *, owned: bool) -> SessionRecord:
    epoch = int(fields[b"epoch"])
    ended = fields.get(b"media_end")
    return SessionRecord(
        spec=decode(SessionSpec, fields[b"spec"]),
        state=_state(fields[b"state"].decode(), owned=owned, epoch=epoch),
        worker_id=fields[b"worker"].decode(),
        epoch=epoch,
        publisher=int(fields[b"publisher"]),
        newest_ms=int(fields.get(b"newest:video", b"-1")),
        media_end=decode(MediaEnd, ended) if ended else None,
        reason=fields.get(b"reason", b"").decode(),
        fenced=int(fields.get(b"fenced", b"0")),
        stats=decode(SessionStats, fields[b"stats"]) if b"stats" in fields else SessionStats(),
        ingest=decode(IngestStats, fields[b"ingest"]) if b"ingest" in fields else IngestStats(),
        preambles=_by_track(fields, PREAMBLE),
        heard=heard_tracks(fields),
    )


def heard_tracks(fields: Mapping[bytes, bytes]) -> dict[int, int]:
    """Of a session's stored fields: session time up to which each track's sound has come."""
    return {track: int(end_ms) for track, end_ms in _by_track(fields, HEARD).items()}


def _by_track(fields: Mapping[bytes, bytes], prefix: str) -> dict[int, bytes]:
    begin = prefix.encode()
    return {int(name.removeprefix(begin)): value for name, value in fields.items() if name.startswith(begin)}


def _state(stored: str, *, owned: bool, epoch: int) -> SessionState:
    if stored == "closed":
        return "closed"
    if stored == "closing":
        return "closing"
    if owned:
        return "live"
    return "waiting" if epoch else "starting"
