"""A worker process with an engine that has no model, so that it starts at once: ``python -m tests.chaos.standin``.

Everything but the engine is the product's own. An answer is as many words as may be said, one every ``TOKEN_S``, drawn
from the question and its seed. SIGUSR1 kills the engine, as a picture that crashes it would; SIGUSR2 makes it
stand still, and the next one go on.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence

from protocol import ids
from protocol.bus import Bus
from protocol.logs import configure_logs
from tests.workers.fake_engine import FakeEngine
from workers.engine.client import EngineDied
from workers.engine.messages import AskQuestion, QuestionDone, Tokens
from workers.main import BUS_WAIT_S, FAILED
from workers.settings import Settings
from workers.worker import Worker

TOKEN_S = 0.02
WORDS = ("red ", "green ", "blue ", "left ", "right ", "ball ", "cube ", "gone ")


def spell(token_ids: Sequence[int]) -> str:
    """The text of these tokens."""
    return "".join(WORDS[token_id] for token_id in token_ids)


class PacedEngine(FakeEngine):
    """Says its words one after the other, from the published ones on."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        super().__init__()
        self._group = group
        self._moving = asyncio.Event()
        self._moving.set()

    def halt(self) -> None:
        """Stands still, or goes on."""
        if self._moving.is_set():
            self._moving.clear()
        else:
            self.go_on()

    def go_on(self) -> None:
        self._moving.set()

    def _speak(self, session_id: str, ask: AskQuestion, *, start: int) -> None:
        self._group.create_task(self._say_words(session_id, ask, start))

    async def _say_words(self, session_id: str, ask: AskQuestion, start: int) -> None:
        session = self.sessions[session_id]
        choice = random.Random(f"{ask.text} {ask.seed}")
        token_ids = [choice.randrange(len(WORDS)) for _ in range(ask.max_tokens)]
        for index in range(start, len(token_ids)):
            await asyncio.sleep(TOKEN_S)
            await self._moving.wait()
            if session.closed or ask.question_id not in session.running:
                return
            said = [token_ids[index]]
            self._say(
                Tokens(
                    session_id=session_id,
                    question_id=ask.question_id,
                    index=index,
                    token_ids=said,
                    text=spell(said),
                )
            )
        del session.running[ask.question_id]
        self._say(
            QuestionDone(
                session_id=session_id,
                question_id=ask.question_id,
                finish_reason="length",
                text=spell(token_ids),
                as_of_ms=session.newest_ms,
                completion_tokens=len(token_ids),
            )
        )


async def serve(settings: Settings) -> int:
    """Runs until SIGTERM, which drains, or until the engine dies: the exit status."""
    bus = await Bus.connect(settings.redis_url, wait_s=BUS_WAIT_S)
    loop = asyncio.get_running_loop()
    status = 0
    try:
        async with asyncio.TaskGroup() as group:
            engine = PacedEngine(group)
            worker = Worker(bus, engine, settings, ids.worker_id())
            loop.add_signal_handler(signal.SIGTERM, worker.stop)
            loop.add_signal_handler(signal.SIGUSR1, engine.die)
            loop.add_signal_handler(signal.SIGUSR2, engine.halt)
            await worker.run()
            engine.go_on()  # whatever it stood still over has no listener any more
    except* EngineDied:
        status = FAILED
    finally:
        await bus.aclose()
    return status


if __name__ == "__main__":
    configure_logs("worker")
    raise SystemExit(asyncio.run(serve(Settings())))
