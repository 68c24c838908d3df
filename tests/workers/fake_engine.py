"""An engine without a model: it remembers what it was shown, and answers with what it has seen."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocol.messages import ModelCard
from workers.engine.client import EngineDied
from workers.engine.messages import (
    AskQuestion,
    CancelQuestion,
    CloseSession,
    Command,
    EndMedia,
    Event,
    FrameTaken,
    Opened,
    OpenSession,
    PushFrame,
    QuestionDone,
    QuestionStarted,
    Ready,
    Refused,
    RememberTurn,
    SessionClosed,
    Tokens,
)

CARD = ModelCard(
    name="fake",
    frame_width=32,
    frame_height=16,
    tokens_per_frame=2,
    pictures_per_grid=1,
    max_fps=4.0,
    default_budget_tokens=64,
    max_budget_tokens=1024,
    bytes_per_token=8,
    policies=["window"],
)


@dataclass
class FakeSession:
    opened: OpenSession
    times: list[int] = field(default_factory=list)
    greys: list[int] = field(default_factory=list)
    media_ended: bool = False
    turns: list[RememberTurn] = field(default_factory=list)
    waiting: list[AskQuestion] = field(default_factory=list)
    running: dict[str, AskQuestion] = field(default_factory=dict)
    closed: bool = False

    @property
    def newest_ms(self) -> int:
        return self.times[-1] if self.times else -1


class FakeEngine:
    """Answers a question once its moment has been seen, its time is up, or its media has ended.

    An answer is the number of frames seen, then the words of the question, a token each. With ``pause_after`` it stops
    after so many tokens until ``resume``. With ``hold_frames`` frames stay on their way until ``release_frames``.
    """

    def __init__(self, *, slots: int = 16, pause_after: int | None = None, hold_frames: bool = False) -> None:
        self.ready = Ready(card=CARD, capacity_tokens=1024)
        self.sessions: dict[str, FakeSession] = {}
        self.commands: list[Command] = []
        self.pause_after = pause_after
        self._hold_frames = hold_frames
        self._held: list[PushFrame] = []
        self._events: asyncio.Queue[Event | EngineDied] = asyncio.Queue(10_000)
        self._memory = np.zeros((slots, 32 * 16 * 3), np.uint8)
        self._slots: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(slots):
            self._slots.put_nowait(slot)
        self._dead = False
        self.working: list[str] = []

    # --- what the worker sees -----------------------------------------------------------------------------------------

    async def send(self, command: Command) -> None:
        if self._dead:
            raise EngineDied("killed by the test")
        self.commands.append(command)
        session = self.sessions.get(getattr(command, "session_id", ""))
        match command:
            case OpenSession():
                self._open(command)
            case PushFrame() if self._hold_frames:
                self._held.append(command)
            case PushFrame():
                self._see(command)
            case EndMedia() if session:
                session.media_ended = True
                self._settle(command.session_id)
            case RememberTurn() if session:
                session.turns.append(command)
            case AskQuestion() if session:
                session.waiting.append(command)
                asyncio.get_running_loop().call_later(
                    max(0.0, command.wait_until - time.monotonic()), self._settle, command.session_id
                )
                self._settle(command.session_id)
            case CancelQuestion() if session:
                self._cancel(session, command.question_id)
            case CloseSession() if session:
                session.closed = True
                self._say(SessionClosed(session_id=command.session_id))

    async def events(self) -> AsyncIterator[Event]:
        while True:
            event = await self._events.get()
            if isinstance(event, EngineDied):
                raise event
            yield event

    async def acquire_slot(self) -> int:
        return await self._slots.get()

    def release_slot(self, slot: int) -> None:
        self._slots.put_nowait(slot)

    def pixels(self, slot: int, height: int, width: int) -> NDArray[np.uint8]:
        return self._memory[slot, : height * width * 3].reshape(height, width, 3)

    @property
    def free_slots(self) -> int:
        return self._slots.qsize()

    # --- what the test does -------------------------------------------------------------------------------------------

    def die(self) -> None:
        self._dead = True
        self._events.put_nowait(EngineDied("killed by the test"))

    def release_frames(self) -> None:
        self._hold_frames = False
        held, self._held = self._held, []
        for frame in held:
            self._see(frame)

    def resume(self) -> None:
        """Lets paused answers end."""
        self.pause_after = None
        for session_id, session in self.sessions.items():
            for ask in list(session.running.values()):
                self._speak(session_id, ask, start=len(ask.prefix) + 1)

    def last_session(self) -> FakeSession:
        return list(self.sessions.values())[-1]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _say(self, event: Event) -> None:
        self._events.put_nowait(event)

    def _open(self, command: OpenSession) -> None:
        if command.policy not in CARD.policies:
            self._say(Refused(session_id=command.session_id, code="unknown_policy", message="no such policy"))
            return
        assert command.session_id not in self.sessions
        self.sessions[command.session_id] = FakeSession(command)
        self._say(Opened(session_id=command.session_id, kv_budget_bytes=command.budget_tokens * 8))

    def _see(self, frame: PushFrame) -> None:
        session = self.sessions[frame.session_id]
        grey = int(self.pixels(frame.slot, frame.height, frame.width).mean())
        self._slots.put_nowait(frame.slot)
        session.times.append(frame.t_ms)
        session.greys.append(grey)
        self._say(
            FrameTaken(
                session_id=frame.session_id,
                sequence=frame.sequence,
                t_ms=frame.t_ms,
                slot=frame.slot,
                outcome="prefilled",
                tokens=2 * len(session.times),
                kv_bytes=16 * len(session.times),
            )
        )
        self._settle(frame.session_id)

    def _settle(self, session_id: str) -> None:
        session = self.sessions[session_id]
        for ask in list(session.waiting):
            seen = session.newest_ms >= ask.at_ms or session.media_ended
            if seen or time.monotonic() >= ask.wait_until:
                session.waiting.remove(ask)
                session.running[ask.question_id] = ask
                self._say(
                    QuestionStarted(
                        session_id=session_id,
                        question_id=ask.question_id,
                        as_of_ms=session.newest_ms,
                        mode=ask.mode,
                        prompt_tokens=3,
                    )
                )
                self._speak(session_id, ask, start=len(ask.prefix))

    def _speak(self, session_id: str, ask: AskQuestion, *, start: int) -> None:
        session = self.sessions[session_id]
        words = [str(len(session.times)), *ask.text.split()]
        for index in range(start, len(words)):
            if self.pause_after is not None and index - len(ask.prefix) >= self.pause_after:
                return
            self._say(
                Tokens(
                    session_id=session_id,
                    question_id=ask.question_id,
                    index=index,
                    token_ids=[index],
                    text=words[index],
                )
            )
        del session.running[ask.question_id]
        self._done(session_id, ask, " ".join(words), "stop")

    def _cancel(self, session: FakeSession, question_id: str) -> None:
        ask = session.running.pop(question_id, None)
        if ask is not None:
            self._done(ask.session_id, ask, "", "cancelled")

    def _done(self, session_id: str, ask: AskQuestion, text: str, reason: str) -> None:
        self._say(
            QuestionDone(
                session_id=session_id,
                question_id=ask.question_id,
                finish_reason=reason,  # type: ignore[arg-type]
                text=text,
                as_of_ms=self.sessions[session_id].newest_ms,
                completion_tokens=len(text.split()),
            )
        )
