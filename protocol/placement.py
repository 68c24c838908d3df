"""Which workers there are, and how much room each has left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NoReturn

import msgspec

from protocol import keys
from protocol.codec import decode, encode
from protocol.connection import Argument, Connection
from protocol.errors import NoCapacity, Starting, UnknownModel
from protocol.messages import ModelCard, WorkerCard
from protocol.retention import Retention
from protocol.scripts import ADVERTISE, RESERVE, VACATE

CALLS = 1_000  # kept for each worker, about: far more than it may leave unread while their reservations stand

Fate = Literal["closed", "orphan", "lost"]


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that advertises now."""

    card: WorkerCard
    reserved_tokens: int


class Placement:
    """The board of workers: who advertises, what is reserved on whom, who is called, which sessions have no owner."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        self._connection = connection
        self._keep = retention

    async def advertise(self, card: WorkerCard, owned: Mapping[str, int]) -> None:
        """A worker's heartbeat, every third of ``worker_ms``: its card, and the tokens of each session it owns."""
        limit = "" if card.draining else f"{card.capacity_tokens}:{card.max_sessions}"
        arguments: list[Argument] = [card.worker_id, encode(card), limit, self._keep.worker_ms, self._keep.lease_ms]
        arguments += [card.model.name, encode(card.model)]
        for session_id, tokens in owned.items():
            arguments += [session_id, tokens]
        model = card.model.name
        names = [keys.beats(), keys.cards(), keys.limits(), keys.loads(model), keys.held(card.worker_id)]
        names += [keys.owned(model), keys.calls(card.worker_id), keys.models()]
        await self._connection.run(ADVERTISE, names, *arguments)

    async def retire(self, card: WorkerCard) -> None:
        """Takes a worker off the board."""
        await self._connection.command("ZREM", keys.beats(), card.worker_id)
        await self._connection.command("ZREM", keys.loads(card.model.name), card.worker_id)
        await self._connection.command("HDEL", keys.cards(), card.worker_id)
        await self._connection.command("HDEL", keys.limits(), card.worker_id)
        await self._connection.command("DEL", keys.held(card.worker_id), keys.calls(card.worker_id))

    async def workers(self) -> list[WorkerState]:
        """All workers that advertise now, draining ones included."""
        now_ms = await self._now_ms()
        names = await self._connection.command("ZRANGEBYSCORE", keys.beats(), now_ms, "+inf")
        if not names:
            return []
        cards = await self._connection.command("HMGET", keys.cards(), *names)
        states: list[WorkerState] = []
        for card in (decode(WorkerCard, data) for data in cards if data):
            load = await self._connection.command("ZSCORE", keys.loads(card.model.name), card.worker_id)
            states.append(WorkerState(card=card, reserved_tokens=int(load or 0)))
        return states

    async def model(self, name: str) -> ModelCard | None:
        """The card of a model that is served, or was within the last hour."""
        stored = await self._connection.command("HGET", keys.models(), name)
        return decode(ModelCard, stored) if stored else None

    async def reserve(self, model: str, session_id: str, tokens: int, *, worker_id: str = "") -> str:
        """Reserves ``tokens`` of room for a session on the least loaded worker of ``model`` and returns its id.

        The reservation lapses by itself unless the worker takes the session. With ``worker_id``, only on that worker.
        Raises Starting (no worker at all), UnknownModel (none of this model), NoCapacity (all full or draining).
        """
        names = [keys.beats(), keys.limits(), keys.loads(model), keys.owned(model)]
        owned_ms = self._keep.adoption_ms if worker_id else self._keep.lease_ms
        arguments = (session_id, tokens, self._keep.reservation_ms, keys.held(""), worker_id, owned_ms)
        reply = await self._connection.run(RESERVE, names, *arguments)
        if reply[0] != b"ok":
            _no_room(model, of_model=int(reply[1]), in_all=int(reply[2]))
        return str(reply[1].decode())

    async def call(self, worker_id: str, session_id: str) -> None:
        """Tells the worker to take the session, once its record is written."""
        key = keys.calls(worker_id)
        await self._connection.command("XADD", key, "MAXLEN", "~", CALLS, "*", "m", session_id)
        await self._connection.command("PEXPIRE", key, self._keep.reservation_ms)

    async def vacate(self, worker_id: str, model: str, session_id: str, fate: Fate) -> None:
        """Gives a session's room back. What becomes of the session: it is ``closed``; or an ``orphan`` that any worker
        with room may take now; or ``lost`` to a worker that has taken it already.
        """
        names = [keys.loads(model), keys.held(worker_id), keys.owned(model)]
        await self._connection.run(VACATE, names, worker_id, session_id, fate)

    async def orphans(self, model: str, *, limit: int = 16) -> list[str]:
        """Sessions of ``model`` whose owner has been silent for too long. A hint: the lease decides."""
        now_ms = await self._now_ms()
        found = await self._connection.command("ZRANGEBYSCORE", keys.owned(model), "-inf", now_ms, "LIMIT", 0, limit)
        return [name.decode() for name in found]

    async def strike(self, model: str, session_id: str) -> None:
        """Takes a session that is gone off the list in which orphans are looked for."""
        await self._connection.command("ZREM", keys.owned(model), session_id)

    async def _now_ms(self) -> int:
        """The server's clock, by which all expiries are written."""
        seconds, micros = await self._connection.command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def _no_room(model: str, *, of_model: int, in_all: int) -> NoReturn:
    if not in_all:
        raise Starting("no worker is ready yet", retry_after=2.0)
    if not of_model:
        raise UnknownModel(f"no worker serves the model {model!r}", param="model")
    raise NoCapacity("every worker is full", retry_after=5.0)
