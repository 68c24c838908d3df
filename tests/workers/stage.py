"""A worker on a real bus, and a client of it: what the tests of the worker are played on."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from PIL import Image

from protocol.bus import Bus
from protocol.ids import START, EntryId
from protocol.messages import (
    AnswerDone,
    AnswerFailed,
    Ask,
    Output,
    Picture,
    SessionSpec,
)
from tests.workers.fake_engine import CARD, FakeEngine
from workers.settings import Settings
from workers.worker import Worker

SESSION = "s_0123456789abcdef01234567"
OTHER = "s_ffffffffffffffffffffffff"


@asynccontextmanager
async def running(bus: Bus, engine: FakeEngine, worker_id: str = "w_a", **settings: float) -> AsyncIterator[Worker]:
    """A worker that runs inside the block and drains at its end."""
    made = Settings(**settings)  # type: ignore[arg-type]
    worker = Worker(bus, engine, made, worker_id)
    task = asyncio.create_task(worker.run())
    try:
        await advertised(bus, worker_id)
        yield worker
    finally:
        worker.stop()
        await task


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again until it holds; the limit only ends a test that has failed."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110  # there is nothing to wait on in another process
            await asyncio.sleep(0.01)


async def advertised(bus: Bus, worker_id: str) -> None:
    async def there() -> bool:
        return worker_id in [state.card.worker_id for state in await bus.placement.workers()]

    await until(there)


def make_spec(session_id: str = SESSION, *, complete: bool = False, policy: str = "window") -> SessionSpec:
    return SessionSpec(
        session_id=session_id,
        tenant="alice",
        model=CARD.name,
        fps=1.0,
        budget_tokens=64,
        policy=policy,
        instructions="be brief",
        ingest="complete" if complete else "live",
        created_at=1.0,
    )


async def place(bus: Bus, spec: SessionSpec) -> str:
    worker_id = await bus.placement.reserve(spec.model, spec.session_id, spec.budget_tokens)
    await bus.sessions.open(spec, worker_id)
    await bus.placement.call(worker_id, spec.session_id)
    return worker_id


def jpeg(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), (grey, grey, grey)).save(stream, "JPEG")
    return stream.getvalue()


def make_picture(sequence: int, *, data: bytes | None = None, arrived_at: float | None = None) -> Picture:
    return Picture(
        t_ms=sequence * 1000,
        track=1,
        sequence=sequence,
        width=32,
        height=16,
        jpeg=jpeg(sequence * 10) if data is None else data,
        arrived_at=time.time() if arrived_at is None else arrived_at,
    )


def make_ask(question_id: str = "q1", *, at_ms: int = 0, text: str = "red ball", remember: bool = True) -> Ask:
    return Ask(question_id=question_id, text=text, at_ms=at_ms, remember=remember, asked_at=time.time())


class Client:
    """A gateway's part in one session: publishes pictures, and collects what the session says."""

    def __init__(self, bus: Bus, session_id: str = SESSION, *, lossless: bool = False) -> None:
        self._bus = bus
        self._session_id = session_id
        self._lossless = lossless
        self._generation = 0
        self._sequence = 0

    async def show(self, *pictures: Picture) -> None:
        if not self._generation:
            self._generation = await self._bus.lanes.claim_publisher(self._session_id)
        for picture in pictures:
            self._sequence += 1
            await self._bus.lanes.append(
                self._session_id, self._generation, self._sequence, picture, lossless=self._lossless
            )

    async def answered(self, question_id: str) -> AnswerDone | AnswerFailed:
        """The question's outcome, once it has one."""
        found: list[AnswerDone | AnswerFailed] = []

        async def there() -> bool:
            outcome = (await self._bus.outputs.question(self._session_id, question_id)).outcome
            found[:] = [] if outcome is None else [outcome]
            return bool(found)

        await until(there)
        return found[0]

    async def said(self, kind: type[Output], *, after: EntryId = START) -> list[Output]:
        """Everything said so far, once something of ``kind`` is among it."""
        found: list[Output] = []

        async def there() -> bool:
            found[:] = [event.output for event in await self._bus.outputs.since(self._session_id, after)]
            return any(isinstance(output, kind) for output in found)

        await until(there)
        return found
