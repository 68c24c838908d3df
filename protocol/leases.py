"""Owning a session: the lease, the epoch that fences it, and reading the lanes under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol import keys
from protocol.clock import ServerClock
from protocol.codec import decode, decode_lane, encode
from protocol.connection import Argument, Call, Connection
from protocol.errors import BadRequest, LeaseLost, NotFound, SessionClosed
from protocol.ids import START, EntryId
from protocol.messages import Control, Lane, MediaEnd, Picture, SessionSpec, SessionStats, Sound
from protocol.retention import Retention
from protocol.scripts import ACQUIRE, COMMIT, RELEASE, RENEW
from protocol.tail import Entry, Tail


@dataclass(frozen=True)
class Lease:
    """A session owned. What lies before ``control_end`` in the control lane was read by an owner before: of its
    questions, those in ``unanswered`` (question ids, oldest first) are still open.
    """

    spec: SessionSpec
    worker_id: str
    epoch: int
    closing: bool
    control_cursor: EntryId
    control_end: EntryId
    media_end: MediaEnd | None
    newest_ms: int  # session time of the newest picture appended, -1 before the first
    passed: Mapping[Lane, int]  # entries of each media lane that no reader will see again
    unanswered: tuple[str, ...]
    crashes: int = 0  # engines that ended lately while this session's work was under way

    @property
    def session_id(self) -> str:
        return self.spec.session_id


@dataclass(frozen=True)
class Renewal:
    """A lease that goes on."""

    idle_ms: int  # since anything was appended to the lanes


@dataclass(frozen=True)
class Cursor:
    """Where the owner stands in a lane, and how many entries it has read there since ``Lease.passed`` began."""

    id: EntryId
    count: int


class Leases:
    """Ownership of sessions, as workers take, keep and give it up."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        self._connection = connection
        self._keep = retention

    async def acquire(self, session_id: str, worker_id: str) -> Lease:
        """Takes the session under the next epoch; safe to repeat. The media cursors begin at the lanes' start again.

        The first act of the new owner is to append Owned as ``<epoch>-0``. Raises NotFound, SessionClosed, LeaseLost
        (another worker holds it).
        """
        names = [keys.session(session_id), keys.lease(session_id)]
        names += [*(keys.lane(session_id, lane) for lane in keys.LANES), keys.unanswered(session_id)]
        reply = await self._connection.run(ACQUIRE, names, worker_id, self._keep.lease_ms, self._keep.crash_ms)
        if reply[0] != b"ok":
            raise {
                b"gone": NotFound("no such session"),
                b"closed": SessionClosed("the session is closed"),
                b"held": LeaseLost("another worker owns this session"),
            }[reply[0]]
        _, epoch, spec, state, cursor, end, media_end, audio, video, newest, open_questions, crashes = reply
        questions = zip(open_questions[::2], open_questions[1::2], strict=True)
        by_age = sorted(questions, key=lambda pair: EntryId.parse(pair[1]))
        return Lease(
            spec=decode(SessionSpec, spec),
            worker_id=worker_id,
            epoch=int(epoch),
            closing=state == b"closing",
            control_cursor=EntryId.parse(cursor),
            control_end=EntryId.parse(end),
            media_end=decode(MediaEnd, media_end) if media_end else None,
            newest_ms=int(newest),
            passed={"audio": int(audio), "video": int(video)},
            unanswered=tuple(name.decode() for name, _ in by_age),
            crashes=int(crashes),
        )

    async def renew(self, leases: Sequence[tuple[Lease, SessionStats]]) -> dict[str, Renewal | None]:
        """Renews many leases in one round trip and publishes the sessions' stats. None stands for a lost one."""
        calls = [self._renewal(lease, stats) for lease, stats in leases]
        replies = await self._connection.run_all(calls)
        return {
            lease.session_id: Renewal(idle_ms=int(reply[1])) if reply[0] == b"ok" else None
            for (lease, _), reply in zip(leases, replies, strict=True)
        }

    async def commit(self, moves: Sequence[tuple[Lease, Mapping[Lane, Cursor]]]) -> set[str]:
        """Publishes how far the owner has read in many sessions, in one round trip.

        Returns the ids of the sessions whose lease is lost: what was read of those must not be acted upon.
        """
        replies = await self._connection.run_all([_move(lease, cursors) for lease, cursors in moves])
        return {lease.session_id for (lease, _), reply in zip(moves, replies, strict=True) if reply[0] != b"ok"}

    async def release(self, lease: Lease, *, accused: bool = False) -> None:
        """Gives the session up so that another worker may take it at once. No error if it was lost already.

        ``accused``: its work was under way when the worker's engine ended.
        """
        names = [keys.session(lease.session_id), keys.lease(lease.session_id)]
        keep = self._keep.crash_ms
        await self._connection.run(RELEASE, names, lease.worker_id, lease.epoch, int(accused), keep)

    async def newest(self, session_id: str, lane: Lane) -> EntryId:
        """Id of the last entry appended to a media lane, ``0-0`` before the first."""
        stored = await self._connection.command("HGET", keys.session(session_id), f"last:{lane}")
        return EntryId.parse(stored) if stored else START

    async def oldest_picture(self, session_id: str) -> Picture | None:
        """Where rebuilding begins: the oldest picture that the video lane still holds."""
        reply = await self._connection.command("XRANGE", keys.lane(session_id, "video"), "-", "+", "COUNT", 1)
        return decode(Picture, reply[0][1][b"m"]) if reply else None

    def _renewal(self, lease: Lease, stats: SessionStats) -> Call:
        names = [keys.session(lease.session_id), keys.lease(lease.session_id)]
        names += [keys.lane(lease.session_id, lane) for lane in keys.LANES]
        names += [keys.unanswered(lease.session_id), keys.output(lease.session_id), keys.turns(lease.session_id)]
        limits = (self._keep.lease_ms, self._keep.session_ms)
        return Call(RENEW, names, [lease.worker_id, lease.epoch, *limits, encode(stats)])


def _move(lease: Lease, cursors: Mapping[Lane, Cursor]) -> Call:
    arguments: list[Argument] = [lease.worker_id, lease.epoch]
    for lane, cursor in cursors.items():
        arguments += [lane, str(cursor.id), cursor.count + lease.passed.get(lane, 0)]
    return Call(COMMIT, [keys.session(lease.session_id), keys.lease(lease.session_id)], arguments)


@dataclass(frozen=True)
class LaneEntry:
    """One entry as its owner reads it."""

    session_id: str
    lane: Lane
    id: EntryId
    message: Control | Picture | Sound | None  # None: cannot be read by this version
    age_s: float = 0.0  # since it was appended


@dataclass(frozen=True)
class LaneBatch:
    """What one read brought: lane entries, each lane's in order, and the sessions that this worker was called to."""

    entries: Sequence[LaneEntry]
    called: Sequence[str]


class LaneTail:
    """Follows the lanes of all sessions of one worker, and the worker's calls, in one blocking read.

    Reading moves nothing on the server: after each batch the owner commits its cursors under the lease, and acts on
    what it read only if that is accepted.
    """

    def __init__(self, tail: Tail, worker_id: str, clock: ServerClock) -> None:
        self._tail = tail
        self._clock = clock
        self._calls = keys.calls(worker_id)
        self._called = START

    async def read(self, positions: Mapping[tuple[str, Lane], EntryId], *, count: int = 8) -> LaneBatch:
        """Entries after each (session id, lane)'s position; waits up to about a second. One task only."""
        streams = {keys.lane(session_id, lane): (session_id, lane) for session_id, lane in positions}
        wanted = {keys.lane(*stream): last for stream, last in positions.items()}
        found = await self._tail.read({**wanted, self._calls: self._called}, count=count)
        calls = found.pop(self._calls, [])
        if calls:
            self._called = calls[-1].id
        entries = [self._entry(*streams[key], entry) for key, batch in found.items() for entry in batch]
        return LaneBatch(entries=entries, called=[call.payload.decode() for call in calls])

    async def wake(self) -> None:
        """Call after the set of lanes to follow has changed."""
        await self._tail.wake()

    async def aclose(self) -> None:
        await self._tail.aclose()

    def _entry(self, session_id: str, lane: Lane, entry: Entry) -> LaneEntry:
        age_s = self._clock.age_s(entry.appended_ms)
        try:
            return LaneEntry(session_id, lane, entry.id, decode_lane(lane, entry.payload), age_s)
        except BadRequest:
            return LaneEntry(session_id, lane, entry.id, None, age_s)
