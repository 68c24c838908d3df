"""A session in the engine: what waits for its trunk, and the branches that grow on it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from workers.core import Kind
from workers.engine.answers import Answers, Emit, Voice, refusal
from workers.engine.fairness import Thinning
from workers.engine.incoming import Frame, Incoming
from workers.engine.messages import (
    AskQuestion,
    EngineNotice,
    FrameTaken,
    OpenSession,
    Outcome,
    PushFrame,
    QuestionDone,
    RememberTurn,
)
from workers.engine.timeline import Bounds, Spell, Timeline, Writing
from workers.memory.pool import IntegrityError
from workers.memory.trunk import Trunk
from workers.perception.changes import ChangeFilter


@dataclass(frozen=True, slots=True)
class Text:
    """Text of so many `tokens` on its way into the trunk."""

    kind: Kind
    tokens: int
    spell: Spell


class Session:
    """Every verb leaves the books balanced: what cannot be done is refused by an event and holds nothing."""

    def __init__(
        self,
        opened: OpenSession,
        trunk: Trunk,
        bounds: Bounds,
        voice: Voice,
        emit: Emit,
        changes: ChangeFilter | None = None,
    ) -> None:
        """`changes`: drops patches and frames that are like those before them."""
        self.id, self.complete, self.alone = opened.session_id, opened.complete, opened.alone
        self.frames = Incoming(changes, lambda: self.timeline.faded_ms)
        self.thinning = Thinning()
        self.late = 0
        self.waiting: list[AskQuestion] = []
        self.turns: deque[RememberTurn] = deque()
        header = voice.chat.header(opened.instructions)
        self.texts: deque[Text] = deque([Text(Kind.SYSTEM, len(header), lambda _: header)])
        self.trunk = trunk
        self.timeline = Timeline(trunk, header.clock, voice.chat, bounds, lambda pages: self.answers.relieve(pages))
        self.answers = Answers(self.id, self.timeline, voice, emit, self._remember)
        self._share, self._chat, self._emit = trunk.share, voice.chat, emit
        self._media_ended, self._offered_ms = False, -1

    @property
    def kv_bytes(self) -> int:
        """Bytes of all pages that trunk, branches and pins hold."""
        return self._share.held * self._share.pool.page_bytes

    # --- what comes in ------------------------------------------------------------------------------------------------

    def ask(self, question: AskQuestion) -> None:
        if any(question.question_id == known for known in self._question_ids()):
            self._emit(refusal(self.id, question, "duplicate_question", "it is waiting or being answered already"))
            return
        self.waiting.append(question)

    def cancel(self, question_id: str) -> None:
        """Ends a question wherever it is; nothing if it has ended."""
        for question in [waiting for waiting in self.waiting if waiting.question_id == question_id]:
            self.waiting.remove(question)
            self._emit(
                QuestionDone(
                    session_id=self.id,
                    question_id=question_id,
                    finish_reason="cancelled",
                    text="",
                    as_of_ms=self.timeline.newest_ms,
                    completion_tokens=0,
                )
            )
        self.answers.cancel(question_id)

    def remember(self, turn: RememberTurn) -> None:
        """Takes a question and answer of before; turns come in order, ahead of the frames that they stand between."""
        self.turns.append(turn)

    def push(self, frame: Frame) -> None:
        self.frames.push(frame)
        self._offer(frame.command)

    def pass_over(self, frame: PushFrame) -> None:
        """A frame that is left out to lower the rate: no question waits for it."""
        self._offer(frame)
        self._emit(taken(frame, "dropped_rate"))

    def cap(self, rate: float) -> None:
        """Lets at most `rate` frames a second in from now on, and tells the client where that changes much."""
        before, self.thinning.rate = self.thinning.rate, rate
        if math.isinf(rate) and not math.isinf(before):
            self._notice("frame_rate_restored", "every frame is taken again")
        elif not math.isinf(rate) and not 0.8 < rate / before < 1.25:
            self._notice("frame_rate_lowered", f"the worker is full: {rate:.2f} frames a second are taken")

    def end_media(self) -> None:
        """No question waits for frames that have not been pushed by now, until one is."""
        self._media_ended = True

    def close(self) -> None:
        """Ends everything that is under way."""
        for question_id in list(self._question_ids()):
            self.cancel(question_id)
        while self.frames:
            self.taken(self.frames.take(), "dropped_closed")

    def advance(self, now: float) -> None:
        """Brings the session up to the next frame that has to be written.

        Frames before it go: those that have become late, unless the session is to be complete, and those that are like
        the ones before them. Between frames, turns of before are put in their place, and questions due are forked.
        """
        self._settle(now)
        while (frame := self.frames.next) is not None:
            if frame.tokens == 0 and not self.texts:
                self.timeline.pass_by(frame.command.t_ms)
                self.taken(self.frames.take(), "dropped_similar")
            elif frame.tokens and not self.complete and frame.command.deadline < now:
                self.taken(self.frames.take(), "dropped_late")
            else:
                break
            self._settle(now)

    def _settle(self, now: float) -> None:
        """Puts turns of before in their place, and forks the questions that nothing is to come for any more."""
        while self.turns and self._passed(self.turns[0].at_ms):
            turn = self.turns.popleft()
            self._remember(turn.question, turn.answer)
        if not self.texts:
            due = [question for question in self.waiting if self._passed(question.at_ms) or now >= question.wait_until]
            for question in due:
                self.waiting.remove(question)
                self.answers.fork(question)

    # --- the trunk ----------------------------------------------------------------------------------------------------

    @property
    def due_frame(self) -> Frame | None:
        """The next frame, unless a text comes first.

        It never overtakes a question about an earlier time: that one was forked by `advance`, at the latest because
        this frame is beyond it.
        """
        return None if self.texts else self.frames.next

    def draw_text(self) -> Writing | None:
        """The next text, under way; None, and the client told, if the trunk has no room for it."""
        text = self.texts.popleft()
        writing = self.timeline.text(text.kind, text.spell)
        if writing is None:
            self._notice("not_remembered", "too long for the memory")
        return writing

    def demand(self) -> tuple[Trunk, int]:
        """The trunk, and how many pages it may have at most if the next frame is to be written."""
        frame = self.frames.next
        if frame is None:
            return self.trunk, self.timeline.bounds.pages
        return self.timeline.demand(frame.command.t_ms, frame.height, frame.width, frame.patches)

    @property
    def fits(self) -> bool:
        """Whether the next frame can be written as the memory stands."""
        frame = self.frames.next
        return frame is not None and self.timeline.fits(frame.command.t_ms, frame.height, frame.width, frame.patches)

    def draw_frame(self) -> tuple[Frame, Writing | None]:
        """The next frame, under way; without a writing if the policy makes no room for it, which is reported."""
        frame = self.frames.take()
        if frame.features is None:
            raise IntegrityError("a frame is to be prefilled before it was encoded")
        writing = self.timeline.frame(frame.command.t_ms, frame.features, frame.patches)
        if writing is None:
            self.taken(frame, "dropped_full")
        return frame, writing

    def taken(self, frame: Frame, outcome: Outcome) -> None:
        """Reports what became of a frame, and frees its slot by it."""
        if outcome in ("prefilled", "dropped_similar"):
            self.frames.written(frame)
        else:
            self.frames.lost()
            self.late += outcome == "dropped_late"
        self._emit(taken(frame.command, outcome, tokens=self.trunk.tokens, kv_bytes=self.kv_bytes))

    def _notice(self, code: str, message: str) -> None:
        self._emit(EngineNotice(session_id=self.id, code=code, message=message))

    def _remember(self, question: str, answer: tuple[int, ...]) -> None:
        tokens = len(self._chat.remembered(self.timeline.clock, question, answer))
        self.texts.append(Text(Kind.TEXT, tokens, lambda clock: self._chat.remembered(clock, question, answer)))

    def check_integrity(self) -> None:
        """IntegrityError unless the session's pages are held exactly by its trunk, its branches and their pins."""
        held = [self.trunk.blocks, *(branch.chain.blocks for branch in self.answers.running)]
        held += [branch.snapshot.blocks for branch in self.answers.running if branch.snapshot]
        self._share.check_holds([block.pages for blocks in held for block in blocks])
        for chain in (self.trunk, *(branch.chain for branch in self.answers.running)):
            chain.check_integrity()
        known = sum(chain.tokens for chain in (self.trunk, *(branch.chain for branch in self.answers.running)))
        if all(block.first >= 0 for block in self.trunk.blocks) and len(self.trunk.facts) != known:
            raise IntegrityError("the fact table and the blocks disagree about how many tokens there are")

    def _offer(self, frame: PushFrame) -> None:
        self._media_ended, self._offered_ms = False, max(self._offered_ms, frame.t_ms)

    def _passed(self, at_ms: int) -> bool:
        """Whether no frame up to `at_ms` is still to come."""
        if self.timeline.newest_ms >= at_ms:
            return True
        if self.frames.next is not None:
            return self.frames.next.command.t_ms > at_ms
        return self._media_ended or self._offered_ms >= at_ms

    def _question_ids(self) -> list[str]:
        return [
            *(question.question_id for question in self.waiting),
            *(branch.question.question_id for branch in self.answers.running),
        ]


def taken(command: PushFrame, outcome: Outcome, *, tokens: int = 0, kv_bytes: int = 0) -> FrameTaken:
    """The answer to a PushFrame."""
    return FrameTaken(
        session_id=command.session_id,
        sequence=command.sequence,
        t_ms=command.t_ms,
        slot=command.slot,
        outcome=outcome,
        tokens=tokens,
        kv_bytes=kv_bytes,
    )
