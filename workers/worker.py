"""The worker: owns sessions and stands between the bus and the engine. It knows nothing of tensors.

One task group holds its loops: lanes in (one blocking read for all sessions), events out of the engine, upkeep once a
second (advertisement, leases, orphans), and a task for each session owned. When the engine dies, so does the worker,
and others take its sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from protocol.bus import Bus
from protocol.errors import (
    BusUnavailable,
    LeaseLost,
    LogLost,
    NoCapacity,
    NotFound,
    SessionClosed,
    Starting,
    UnknownModel,
)
from protocol.ids import EntryId
from protocol.leases import LaneBatch, LaneEntry, Lease
from protocol.messages import Lane, WorkerCard
from protocol.placement import Fate
from workers.capacity import sessions_admitted
from workers.engine.client import EngineDied
from workers.engine.messages import Failed, Ready, Stats, Working
from workers.feed import Engine
from workers.load import Load
from workers.ownership import Ending, Ownership
from workers.pictures import PictureDecoder
from workers.settings import Settings

log = logging.getLogger(__name__)

READ_COUNT = 8
AWAY_S = 0.2  # pause before the bus is tried again
UPKEEP_S = 1.0
LEAVE_S = 2.0


class Worker:
    """``run`` owns sessions until ``stop``; made with a bus that answers and an engine that is ready."""

    def __init__(self, bus: Bus, engine: Engine, settings: Settings, worker_id: str) -> None:
        self._bus = bus
        self._engine = engine
        self._settings = settings
        self._worker_id = worker_id
        self._model = engine.ready.card.name
        self._decoder = PictureDecoder(settings.decode_threads)
        self._tail = bus.follow_lanes(worker_id)
        self._owned: dict[str, Ownership] = {}
        self._engine_ids: dict[str, Ownership] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._positions_changed = asyncio.Event()
        self._draining = False
        self._stopping = asyncio.Event()
        self._load = Load()
        self._effort = 1.0  # what sessions' frames take of late, of what whole ones do
        self._accused: set[str] = set()  # sessions whose work was under way when the engine ended

    @property
    def sessions(self) -> Sequence[str]:
        """Ids of the sessions owned now."""
        return list(self._owned)

    def stop(self) -> None:
        """Claims nothing more, lets answers under way end within the drain limit, hands the sessions over."""
        self._stopping.set()

    async def run(self) -> None:
        """Raises EngineDied, in a group, when the engine does; the leases are given up on the way out."""
        log.info("worker ready", extra={"worker_id": self._worker_id, "model": self._model})
        try:
            async with asyncio.TaskGroup() as group:
                loops = [
                    group.create_task(self._read_lanes(group), name="lanes"),
                    group.create_task(self._wake_reader(), name="wake"),
                    group.create_task(self._hear_engine(), name="events"),
                    group.create_task(self._keep_up(group), name="upkeep"),
                ]
                await self._stopping.wait()
                await self._drain()
                for loop in loops:
                    loop.cancel()
        except BaseExceptionGroup as failed:
            if failed.subgroup(EngineDied) is not None:
                self._accuse()
            raise
        finally:
            await self._leave()

    # --- loops --------------------------------------------------------------------------------------------------------

    async def _read_lanes(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                batch = await self._tail.read(self._positions(), count=READ_COUNT)
                for session_id in batch.called:
                    self._claim(session_id, group)
                await self._dispatch(batch)
            except BusUnavailable:
                await asyncio.sleep(AWAY_S)

    async def _wake_reader(self) -> None:
        while True:
            await self._positions_changed.wait()
            self._positions_changed.clear()
            try:
                await self._tail.wake()
            except BusUnavailable:
                await asyncio.sleep(AWAY_S)

    async def _hear_engine(self) -> None:
        async for event in self._engine.events():
            if isinstance(event, Stats):
                self._effort = event.stats.effort
            if isinstance(event, Ready | Stats | Failed | Working):
                continue
            owner = self._engine_ids.get(event.session_id)
            if owner is not None:
                owner.hear(event)

    async def _keep_up(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                await self._bus.relieve(list(self._owned))
                await self._bus.check()
                await self._renew(list(self._owned.values()))
                await self._advertise()  # last, so that no session is looked for before its lease has run out
                for session_id in await self._adoptable():
                    self._claim(session_id, group)
                for owner in list(self._owned.values()):
                    await owner.intake.settle()
            except LogLost:
                log.error("the bus came back without its data; its sessions are gone")
                for owner in self._owned.values():
                    owner.end(Ending("lost", "log_lost"))
            except BusUnavailable:
                log.warning("the bus does not answer")
            await asyncio.sleep(UPKEEP_S)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _positions(self) -> dict[tuple[str, Lane], EntryId]:
        return {
            (owner.session_id, lane): position
            for owner in self._owned.values()
            for lane, position in owner.intake.positions().items()
        }

    async def _dispatch(self, batch: LaneBatch) -> None:
        by_owner: dict[Ownership, list[LaneEntry]] = defaultdict(list)
        for entry in batch.entries:
            owner = self._owned.get(entry.session_id)
            if owner is not None:
                by_owner[owner].append(entry)
        moves = {owner: owner.intake.cursors_after(entries) for owner, entries in by_owner.items()}
        unsure = await self._bus.leases.commit([(owner.lease, cursors) for owner, cursors in moves.items()])
        for owner, cursors in moves.items():
            if owner.session_id not in unsure:
                await owner.intake.take(by_owner[owner], cursors)
        # A lease that merely ran out is the owner's again once renewed; what was read is then read once more.
        await self._renew([owner for owner in moves if owner.session_id in unsure])

    # --- owning -------------------------------------------------------------------------------------------------------

    def _claim(self, session_id: str, group: asyncio.TaskGroup) -> None:
        if self._draining or session_id in self._tasks:
            return
        task = group.create_task(self._own(session_id), name=f"session {session_id}")
        self._tasks[session_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(session_id, None))

    async def _own(self, session_id: str) -> None:
        lease = await self._acquire(session_id)
        if lease is None:
            return
        owner = Ownership(self._bus, self._engine, self._decoder, lease, self._settings, self._positions_changed.set)
        self._owned[session_id] = self._engine_ids[owner.engine_id] = owner
        ending = await owner.run()
        del self._owned[session_id], self._engine_ids[owner.engine_id]
        await self._vacate(session_id, ending.fate)

    async def _acquire(self, session_id: str) -> Lease | None:
        try:
            return await self._bus.leases.acquire(session_id, self._worker_id)
        except (NotFound, SessionClosed):
            await self._vacate(session_id, "closed")
        except LeaseLost:
            await self._vacate(session_id, "lost")
        except BusUnavailable:
            log.warning("a session could not be taken", extra={"session_id": session_id})
        return None

    async def _vacate(self, session_id: str, fate: Fate) -> None:
        try:
            await self._bus.placement.vacate(self._worker_id, self._model, session_id, fate)
        except BusUnavailable:
            log.warning("room could not be given back; it lapses", extra={"session_id": session_id})

    async def _adoptable(self) -> list[str]:
        """Sessions whose owner is silent, with room reserved here, as far as there is room."""
        adoptable: list[str] = []
        for session_id in () if self._draining else await self._bus.placement.orphans(self._model):
            if session_id in self._tasks:
                continue
            try:
                record = await self._bus.sessions.get(session_id)
                if record.state == "live":
                    continue  # its lease has a moment left: looked at again with the next beat
                tokens = record.spec.budget_tokens
                await self._bus.placement.reserve(self._model, session_id, tokens, worker_id=self._worker_id)
            except NotFound:
                await self._bus.placement.strike(self._model, session_id)
            except (NoCapacity, Starting, UnknownModel):
                break
            else:
                adoptable.append(session_id)
        return adoptable

    async def _renew(self, owners: Sequence[Ownership]) -> None:
        renewals = await self._bus.leases.renew([(owner.lease, owner.stats()) for owner in owners])
        for owner in owners:
            renewal = renewals[owner.session_id]
            if renewal is None:
                owner.end(Ending("lost"))
            elif renewal.idle_ms > self._settings.idle_s * 1000:
                owner.end(Ending("closed", "idle"))

    async def _advertise(self) -> None:
        self._load.look([owner.dropped_for_load for owner in self._owned.values()])
        held = {owner.session_id: owner.lease.spec.budget_tokens for owner in self._owned.values()}
        await self._bus.placement.advertise(self._card(), held)

    def _card(self) -> WorkerCard:
        rates = [owner.lease.spec.fps for owner in self._owned.values()]
        frame_seconds = self._effort * self._engine.ready.frame_seconds
        most = sessions_admitted(rates, frame_seconds, self._settings.max_sessions)
        return WorkerCard(
            worker_id=self._worker_id,
            model=self._engine.ready.card,
            capacity_tokens=self._engine.ready.capacity_tokens,
            max_sessions=min(len(self._owned), most) if self._load.behind else most,
            draining=self._draining,
        )

    # --- leaving ------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._draining = True
        log.info("draining", extra={"worker_id": self._worker_id, "count": len(self._owned)})
        try:
            await self._advertise()
            async with asyncio.timeout(self._settings.drain_s):
                for owner in list(self._owned.values()):
                    await owner.quiet()
        except (BusUnavailable, TimeoutError):
            log.warning("answers under way are handed over", extra={"worker_id": self._worker_id})
        for owner in self._owned.values():
            owner.end(Ending("orphan", "drain"))
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _accuse(self) -> None:
        owners = [self._engine_ids[name] for name in self._engine.working if name in self._engine_ids]
        self._accused = {owner.session_id for owner in owners}
        for session_id in self._accused:
            log.error("the engine ended over the work of this session or others", extra={"session_id": session_id})

    async def _leave(self) -> None:
        """Gives up what is still held, so that others need not wait for the leases to run out."""
        try:
            async with asyncio.timeout(LEAVE_S):
                for owner in self._owned.values():
                    accused = owner.session_id in self._accused
                    await self._bus.leases.release(owner.lease, accused=accused)
                    await self._vacate(owner.session_id, "orphan")
                await self._bus.placement.retire(self._card())
        except (BusUnavailable, TimeoutError):
            log.warning("the leases are left to run out", extra={"worker_id": self._worker_id})
        await self._tail.aclose()
        self._decoder.close()
