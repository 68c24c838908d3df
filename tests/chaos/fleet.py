"""A fleet of workers and their sessions, placed by the bus's own code on a real server. No worker process runs.

What must hold at any time:

* no worker ever holds more than its room, and no session is in two places;
* a worker that dies or leaves moves its own sessions and no others;
* whoever asks is placed as long as there is room for it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from protocol import keys
from protocol.bus import Bus
from protocol.connection import Connection
from protocol.errors import NoCapacity
from protocol.messages import ModelCard, WorkerCard
from protocol.retention import Retention

MODEL = ModelCard(
    name="mini",
    frame_width=224,
    frame_height=224,
    tokens_per_frame=64,
    pictures_per_grid=1,
    max_fps=2.0,
    default_budget_tokens=1024,
    max_budget_tokens=8192,
    bytes_per_token=1024,
    policies=["window"],
)
ROOM = (64_000, 128_000, 256_000)  # tokens of a worker, by its GPU
BUDGETS = (512, 1024, 2048)
GATEWAYS = 16  # that place sessions at the same time
HOUR_MS = 3_600_000
# Nothing lapses by itself while the fleet is being looked at: workers die when they are told to.
RETENTION = Retention(worker_ms=HOUR_MS, lease_ms=HOUR_MS, reservation_ms=HOUR_MS)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of a run did."""

    name: str
    done: int
    refused: int
    moved_needlessly: int
    seconds: float
    p50_ms: float
    p99_ms: float


@dataclass
class Fleet:
    """The workers as they themselves know what they hold; ``sessions`` is where each session is."""

    bus: Bus
    connection: Connection
    random: random.Random
    cards: dict[str, WorkerCard] = field(default_factory=dict)
    held: dict[str, dict[str, int]] = field(default_factory=dict)  # worker id -> session id -> tokens
    sessions: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    _hired: int = 0

    @classmethod
    async def start(cls, url: str, *, seed: int) -> Fleet:
        """Over a server that holds nothing else."""
        connection = Connection(url)
        return cls(await Bus.connect(url, RETENTION), connection, random.Random(seed))

    async def aclose(self) -> None:
        await self.bus.aclose()
        await self.connection.aclose()

    async def hire(self, count: int, *, room: int | None = None) -> Step:
        """Workers come up and advertise: of different sizes, or with ``room`` tokens each."""
        names = [f"w_{self._hired + n:05}" for n in range(count)]
        self._hired += count
        for name in names:
            tokens = room or self.random.choice(ROOM)
            self.held[name] = {}
            self.cards[name] = WorkerCard(worker_id=name, model=MODEL, capacity_tokens=tokens, max_sessions=tokens)
        return await self._step("hire", names, self._advertise)

    async def open(self, count: int, *, budget: int | None = None) -> Step:
        """Gateways open sessions: of different budgets, or of ``budget`` tokens each."""
        names = [f"s_{len(self.tokens) + n:024}" for n in range(count)]
        for name in names:
            self.tokens[name] = budget or self.random.choice(BUDGETS)
        step = await self._step("open", names, self._place)
        for name in set(names) - set(self.sessions):
            del self.tokens[name]
        return step

    async def fill(self) -> Step:
        """One session on each worker takes all the room that is left there."""
        names = [f"f_{worker}" for worker in self.cards]
        for worker, held in self.held.items():
            self.tokens[f"f_{worker}"] = self.cards[worker].capacity_tokens - sum(held.values())

        async def take(name: str) -> bool:
            worker = name.removeprefix("f_")
            await self.bus.placement.reserve(MODEL.name, name, self.tokens[name], worker_id=worker)
            self._settle(name, worker)
            return True

        return await self._step("fill", names, take)

    def room(self) -> int:
        """Tokens that are not held by any session."""
        capacity = sum(card.capacity_tokens for card in self.cards.values())
        return capacity - sum(sum(held.values()) for held in self.held.values())

    async def kill(self, count: int) -> Step:
        """Workers die without a word; their beats and leases lapse, and the others take their sessions."""
        dead = self.random.sample(sorted(self.cards), count)
        orphans = [session for worker in dead for session in self.held.pop(worker)]
        for worker in dead:
            del self.cards[worker]
            await self.connection.command("ZADD", keys.beats(), 1, worker)
        for session in orphans:
            await self.connection.command("ZADD", keys.owned(MODEL.name), 1, session)
        return await self._adopt("kill", orphans)

    async def drain(self, count: int) -> Step:
        """Workers hand their sessions over and go."""
        leaving = self.random.sample(sorted(self.cards), count)
        orphans = [session for worker in leaving for session in self.held[worker]]
        for worker in leaving:
            await self.bus.placement.advertise(msgspec.structs.replace(self.cards[worker], draining=True), {})
            for session in self.held.pop(worker):
                await self.bus.placement.vacate(worker, MODEL.name, session, "orphan")
            await self.bus.placement.retire(self.cards.pop(worker))
        return await self._adopt("drain", orphans)

    async def complaints(self) -> list[str]:
        """Promises that do not hold now: the workers' own books, and the board's."""
        found: list[str] = []
        for name, held in self.held.items():
            if sum(held.values()) > self.cards[name].capacity_tokens:
                found.append(f"{name} holds {sum(held.values())} of {self.cards[name].capacity_tokens} tokens")
        twice = [name for name, places in Counter(s for held in self.held.values() for s in held).items() if places > 1]
        found += [f"{name} is in two places" for name in twice]
        found += [f"{name} is nowhere" for name in self.tokens.keys() - self.sessions.keys()]
        for state in await self.bus.placement.workers():
            name = state.card.worker_id
            known = sum(self.held.get(name, {}).values())
            if state.reserved_tokens != known:
                found.append(f"the board says {state.reserved_tokens} tokens of {name}, which holds {known}")
        return found

    def spread(self) -> tuple[int, int]:
        """The least and the most tokens that a worker holds."""
        sums = [sum(held.values()) for held in self.held.values()]
        return min(sums), max(sums)

    async def _adopt(self, name: str, orphans: list[str]) -> Step:
        """Survivors look for orphans, each with room of its own, until none is left or nobody has room."""
        before = {session: worker for session, worker in self.sessions.items() if session not in set(orphans)}
        for session in orphans:
            del self.sessions[session]
        step = await self._step(name, self.random.sample(sorted(self.cards), len(self.cards)), self._look_for_orphans)
        moved = sum(self.sessions.get(session) != worker for session, worker in before.items())
        return msgspec.structs.replace(
            step, done=sum(s in self.sessions for s in orphans), refused=0, moved_needlessly=moved
        )

    async def _look_for_orphans(self, worker: str) -> bool:
        while True:
            found = [name for name in await self.bus.placement.orphans(MODEL.name) if name not in self.sessions]
            if not found:
                return True
            for session in found:
                try:
                    tokens = self.tokens[session]
                    await self.bus.placement.reserve(MODEL.name, session, tokens, worker_id=worker)
                except NoCapacity:
                    return False
                if session in self.sessions:  # another was faster; its lease would say so
                    await self.bus.placement.vacate(worker, MODEL.name, session, "lost")
                else:
                    self._settle(session, worker)

    async def _place(self, session: str) -> bool:
        try:
            worker = await self.bus.placement.reserve(MODEL.name, session, self.tokens[session])
        except NoCapacity:
            return False
        self._settle(session, worker)
        return True

    def _settle(self, session: str, worker: str) -> None:
        self.sessions[session] = worker
        self.held[worker][session] = self.tokens[session]

    async def _advertise(self, worker: str) -> bool:
        await self.bus.placement.advertise(self.cards[worker], self.held[worker])
        return True

    async def _step(self, name: str, items: Iterable[str], act: Callable[[str], Awaitable[bool]]) -> Step:
        """Acts on each item, several at a time."""
        waiting, spent, results = iter(items), list[float](), Counter[bool]()

        async def work() -> None:
            for item in waiting:
                began = time.perf_counter()
                results[await act(item)] += 1
                spent.append((time.perf_counter() - began) * 1000)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(GATEWAYS):
                group.create_task(work())
        spent.sort()
        return Step(
            name=name,
            done=results[True],
            refused=results[False],
            moved_needlessly=0,
            seconds=time.perf_counter() - began,
            p50_ms=spent[len(spent) // 2],
            p99_ms=spent[len(spent) * 99 // 100],
        )
