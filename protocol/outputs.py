"""A session's output stream: the owner writes it, gateways follow it, and answers can be asked for by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from protocol import keys
from protocol.codec import decode, decode_output, encode
from protocol.connection import Argument, Connection
from protocol.errors import BadRequest, LeaseLost, NotFound
from protocol.ids import START, EntryId
from protocol.messages import AnswerDone, AnswerFailed, AnswerStarted, Ask, Output, QuestionRecord, Turn
from protocol.retention import Retention
from protocol.scripts import FAIL, OUTPUT
from protocol.tail import Tail


@dataclass(frozen=True)
class Event:
    """One entry of a session's output stream. ``str(event.id)`` is what clients see as ``event_id``."""

    session_id: str
    id: EntryId
    output: Output


class Outputs:
    """What sessions have said, and what became of each question."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        self._connection = connection
        self._keep = retention

    async def append(
        self,
        session_id: str,
        epoch: int,
        entries: Sequence[tuple[int, Output]],
        turns: Mapping[int, Turn] = MappingProxyType({}),
    ) -> None:
        """Appends outputs as ``<epoch>-<n>``, in order; safe to repeat. A final output becomes the question's outcome
        in the same script, unless the question has one already: then it is left out. ``turns``: what the session
        remembers of the final output ``n``.

        Raises LeaseLost where a newer epoch speaks for the session, or the session is gone.
        """
        names = [keys.session(session_id), keys.output(session_id), keys.unanswered(session_id), keys.turns(session_id)]
        keep = self._keep
        arguments: list[Argument] = [epoch, keep.output_ms, keep.session_ms, keep.answer_ms, keep.turns]
        for n, output in entries:
            kind, question_id = _effect(output)
            if kind:
                names.append(keys.question(session_id, question_id))
            turn = turns.get(n)
            arguments += [f"{epoch}-{n}", encode(output), kind, question_id, b"" if turn is None else encode(turn)]
        reply = await self._connection.run(OUTPUT, names, *arguments)
        if reply[0] != b"ok":
            raise LeaseLost("another worker speaks for this session")

    async def turns(self, session_id: str) -> list[Turn]:
        """What the session remembers of its questions and answers, oldest first."""
        reply = await self._connection.command("XRANGE", keys.turns(session_id), "-", "+")
        return [decode(Turn, fields[b"m"]) for _, fields in reply]

    async def fail_unowned(self, session_id: str, failed: AnswerFailed) -> bool:
        """Ends a question of a session that no worker owns; gateways do so to questions that waited too long.

        Returns False, and does nothing, where a worker owns the session or the question has its outcome.
        """
        names = [keys.session(session_id), keys.lease(session_id), keys.output(session_id)]
        names += [keys.question(session_id, failed.question_id), keys.unanswered(session_id)]
        limits = (self._keep.answer_ms, self._keep.session_ms)
        reply = await self._connection.run(FAIL, names, encode(failed), failed.question_id, *limits)
        return bool(reply[0] == b"ok")

    async def question(self, session_id: str, question_id: str) -> QuestionRecord:
        """Raises NotFound, also ten minutes after the outcome."""
        key = keys.question(session_id, question_id)
        fields = ("ask", "entry", "cancelled", "started", "outcome")
        ask, entry, cancelled, started, outcome = await self._connection.command("HMGET", key, *fields)
        if ask is None:
            raise NotFound("no such question")
        return QuestionRecord(
            ask=decode(Ask, ask),
            entry_id=entry.decode(),
            cancelled=cancelled is not None,
            started=started is not None,
            outcome=_outcome(outcome) if outcome else None,
        )

    async def since(self, session_id: str, after: EntryId = START, *, count: int = 10_000) -> list[Event]:
        """What the stream still holds after an id, oldest first, without waiting."""
        reply = await self._connection.command("XRANGE", keys.output(session_id), f"({after}", "+", "COUNT", count)
        return [Event(session_id, EntryId.parse(id), decode_output(fields[b"m"])) for id, fields in reply]

    async def newest(self, session_id: str) -> EntryId:
        """Id of the newest entry, ``0-0`` before the first: where a client without a last event id begins."""
        reply = await self._connection.command("XREVRANGE", keys.output(session_id), "+", "-", "COUNT", 1)
        return EntryId.parse(reply[0][0]) if reply else START


class OutputTail:
    """Follows the output streams of many sessions in one call: one of these per gateway process."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    async def read(self, positions: Mapping[str, EntryId]) -> list[Event]:
        """Events after each session's position (session id -> id of the last one seen), each session's in order.

        Waits up to about a second; an empty list means that nothing came or that ``wake`` was called. One task only.
        """
        streams = {keys.output(session_id): session_id for session_id in positions}
        found = await self._tail.read({keys.output(name): last for name, last in positions.items()}, count=256)
        return [
            Event(streams[key], entry.id, decode_output(entry.payload))
            for key, entries in found.items()
            for entry in entries
        ]

    async def wake(self) -> None:
        """Call after the set of sessions to follow has grown: ``read`` returns at once and is called anew."""
        await self._tail.wake()

    async def aclose(self) -> None:
        await self._tail.aclose()


def _effect(output: Output) -> tuple[str, str]:
    if isinstance(output, AnswerStarted):
        return "started", output.question_id
    if isinstance(output, AnswerDone | AnswerFailed):
        return "final", output.question_id
    return "", ""


def _outcome(data: bytes) -> AnswerDone | AnswerFailed:
    output = decode_output(data)
    if not isinstance(output, AnswerDone | AnswerFailed):
        raise BadRequest("a question's outcome is neither done nor failed")
    return output
