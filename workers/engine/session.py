"""A session in the engine: what waits for its trunk, and the branches that grow on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from protocol.messages import FinishReason
from workers.core import Kind
from workers.engine.batch import Work
from workers.engine.branch import Branch
from workers.engine.messages import (
    AskQuestion,
    EngineNotice,
    Event,
    FrameTaken,
    OpenSession,
    Outcome,
    PushFrame,
    QuestionDone,
    QuestionStarted,
    Refused,
    Tokens,
)
from workers.engine.timeline import Bounds, Spell, Timeline, Writing
from workers.memory.chain import Chain, Draft
from workers.memory.pool import IntegrityError
from workers.memory.trunk import Trunk
from workers.models.chat import Chat, Span
from workers.models.tokenizer import Tokenizer
from workers.perception.vision import Features


@dataclass(slots=True)
class Frame:
    """A frame on its way: so many `tokens`; `features` once it is encoded."""

    command: PushFrame
    tokens: int
    features: Features | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Text of so many `tokens` on its way into the trunk."""

    kind: Kind
    tokens: int
    spell: Spell


@dataclass(frozen=True, slots=True)
class Voice:
    """What turns text into tokens and tokens into text."""

    chat: Chat
    tokenizer: Tokenizer


class Saying(NamedTuple):
    """A branch's next tokens under way."""

    branch: Branch
    span: Span
    work: Work
    draft: Draft


Emit = Callable[[Event], None]


class Session:
    """Every verb leaves the books balanced: what cannot be done is refused by an event and holds nothing."""

    def __init__(self, opened: OpenSession, trunk: Trunk, bounds: Bounds, voice: Voice, emit: Emit) -> None:
        self.id, self.complete = opened.session_id, opened.complete
        self.frames: deque[Frame] = deque()
        self.waiting: list[AskQuestion] = []
        self.branches: list[Branch] = []
        header = voice.chat.header(opened.instructions)
        self.texts: deque[Text] = deque([Text(Kind.SYSTEM, len(header), lambda _: header)])
        self.trunk = trunk
        self.timeline = Timeline(trunk, header.clock, voice.chat, bounds, self._relieve)
        self._share, self._voice, self._emit = trunk.share, voice, emit
        self._ended_ms = -1

    @property
    def kv_bytes(self) -> int:
        """Bytes of all pages that trunk, branches and pins hold."""
        return self._share.held * self._share.pool.page_bytes

    # --- what comes in ------------------------------------------------------------------------------------------------

    def ask(self, question: AskQuestion) -> None:
        if any(question.question_id == known for known in self._question_ids()):
            self._refuse(question, "duplicate_question", "a question of this id is waiting or being answered")
            return
        self.waiting.append(question)

    def cancel(self, question_id: str) -> None:
        """Ends a question wherever it is; nothing if it has ended."""
        for question in [waiting for waiting in self.waiting if waiting.question_id == question_id]:
            self.waiting.remove(question)
            self._done(question, "cancelled")
        for branch in [branch for branch in self.branches if branch.question.question_id == question_id]:
            self.finish(branch, "cancelled")

    def end_media(self, at_ms: int) -> None:
        self._ended_ms = max(self._ended_ms, at_ms)

    def close(self) -> None:
        """Ends everything that is under way."""
        for question_id in list(self._question_ids()):
            self.cancel(question_id)
        while self.frames:
            self.taken(self.frames.popleft(), "dropped_closed")

    def advance(self, now: float) -> None:
        """Drops frames that have become late, unless the session is to be complete, and forks the questions due."""
        while self.frames and not self.complete and self.frames[0].command.deadline < now:
            self.taken(self.frames.popleft(), "dropped_late")
        if not self.texts:
            due = [question for question in self.waiting if self._passed(question.at_ms) or now >= question.wait_until]
            for question in due:
                self.waiting.remove(question)
                self._fork(question)

    # --- the trunk ----------------------------------------------------------------------------------------------------

    @property
    def due_frame(self) -> Frame | None:
        """The next frame, unless a text comes first.

        It never overtakes a question about an earlier time: that one was forked by `advance`, at the latest because
        this frame is beyond it.
        """
        return self.frames[0] if self.frames and not self.texts else None

    def draw_text(self) -> Writing | None:
        """The next text, under way; None, and the client told, if the trunk has no room for it."""
        text = self.texts.popleft()
        writing = self.timeline.text(text.kind, text.spell)
        if writing is None:
            self._emit(EngineNotice(session_id=self.id, code="not_remembered", message="too long for the memory"))
        return writing

    def draw_frame(self) -> tuple[Frame, Writing | None]:
        """The next frame, under way; without a writing if the policy makes no room for it, which is reported."""
        frame = self.frames.popleft()
        if frame.features is None:
            raise IntegrityError("a frame is to be prefilled before it was encoded")
        writing = self.timeline.frame(frame.command.t_ms, frame.features)
        if writing is None:
            self.taken(frame, "dropped_full")
        return frame, writing

    def taken(self, frame: Frame, outcome: Outcome) -> None:
        """Reports what became of a frame, and frees its slot by it."""
        self._emit(taken(frame.command, outcome, tokens=self.trunk.tokens, kv_bytes=self.kv_bytes))

    # --- branches -----------------------------------------------------------------------------------------------------

    def draw_sayings(self, wanted: Sequence[tuple[Branch, int]]) -> list[Saying]:
        """The next tokens of branches: so many of a prompt, or the newest of the answer.

        Room is made for all before any is drawn up. Those that find none, or that have come too far, are ended.
        """
        for branch, count in wanted:
            if branch.reach(self._next(branch, count)) > self.timeline.bounds.trained_length:
                self._cut(branch)
        spans: list[tuple[Branch, Span]] = []
        room = False
        while not room:
            spans = [(branch, self._next(branch, count)) for branch, count in wanted if branch in self.branches]
            need = sum(branch.pages_for(span) for branch, span in spans)
            room = self._share.free >= need
            if not room and not self._relieve(need):
                self._cut(max(self.branches, key=lambda branch: branch.chain.pages))
        return [Saying(branch, span, *branch.draft(span, self.trunk)) for branch, span in spans]

    def said(self, saying: Saying, token: int | None) -> None:
        """A saying is done; `token` was sampled after it, unless more of the prompt is to come."""
        saying.branch.commit(saying.draft, saying.span)
        if token is not None:
            self._say(saying.branch, token)

    def _say(self, branch: Branch, token: int) -> None:
        """Takes the token that was sampled after what the branch has read."""
        question = branch.question
        if token in self._voice.tokenizer.special.stops:
            self.finish(branch, "stop")
            return
        index = len(branch.answer)
        text = branch.add(token)
        self._emit(
            Tokens(session_id=self.id, question_id=question.question_id, index=index, token_ids=[token], text=text)
        )
        if len(branch.answer) >= question.max_tokens:
            self.finish(branch, "length")

    def finish(self, branch: Branch, reason: FinishReason) -> None:
        """Ends a branch and says so. A remembered question and answer wait to become part of the trunk."""
        question_id = branch.question.question_id
        rest = branch.detokenizer.finish()
        if rest:
            branch.text += rest
            index = len(branch.answer)
            self._emit(Tokens(session_id=self.id, question_id=question_id, index=index, token_ids=[], text=rest))
        self.branches.remove(branch)
        branch.end()
        if branch.question.remember and reason in ("stop", "length"):
            self._remember(branch.question.text, tuple(branch.answer))
        self._done(branch.question, reason, branch)

    def _done(self, question: AskQuestion, reason: FinishReason, branch: Branch | None = None) -> None:
        done = QuestionDone(
            session_id=self.id,
            question_id=question.question_id,
            finish_reason=reason,
            text=branch.text if branch else "",
            as_of_ms=branch.as_of_ms if branch else self.timeline.newest_ms,
            completion_tokens=len(branch.answer) if branch else 0,
        )
        self._emit(done)

    def _fork(self, question: AskQuestion) -> None:
        asked = self._voice.chat.question(self.timeline.clock, question.text)
        prompt = _joined(asked, self._voice.chat.answer(asked.clock, question.prefix))
        room = self._share.size * self._share.pool.page_size // 2
        if len(prompt) >= min(self.timeline.bounds.reserve, room):
            self._refuse(question, "question_too_long", f"{len(prompt)} tokens are more than fit beside the memory")
            return
        snapshot = self.trunk.snapshot() if question.mode == "frozen" else None
        branch = Branch(
            question,
            Chain(self._share, self.trunk.facts),
            prompt,
            snapshot,
            self._voice.tokenizer.stream(),
            as_of_ms=self.timeline.newest_ms,
            moved=self.timeline.moved,
        )
        self.branches.append(branch)
        self._emit(
            QuestionStarted(
                session_id=self.id,
                question_id=question.question_id,
                as_of_ms=branch.as_of_ms,
                mode=question.mode,
                prompt_tokens=self.trunk.tokens + len(asked),
            )
        )
        if len(question.prefix) >= question.max_tokens:
            self.finish(branch, "length")

    def _next(self, branch: Branch, count: int) -> Span:
        """What a branch reads next, where it stands: on a live branch, an answer's token after all that was seen."""
        if branch.live:
            branch.follow(self.timeline.moved)
        if branch.unread:
            return branch.prompt(count)
        clock = branch.clock.following(self.timeline.clock) if branch.live else branch.clock
        return self._voice.chat.answer(clock, branch.answer[-1:])

    def _remember(self, question: str, answer: tuple[int, ...]) -> None:
        tokens = len(self._voice.chat.remembered(self.timeline.clock, question, answer))
        self.texts.append(Text(Kind.TEXT, tokens, lambda clock: self._voice.chat.remembered(clock, question, answer)))

    def check_integrity(self) -> None:
        """IntegrityError unless the session's pages are held exactly by its trunk, its branches and their pins."""
        held = [self.trunk.blocks, *(branch.chain.blocks for branch in self.branches)]
        held += [branch.snapshot.blocks for branch in self.branches if branch.snapshot]
        self._share.check_holds([block.pages for blocks in held for block in blocks])
        for chain in (self.trunk, *(branch.chain for branch in self.branches)):
            chain.check_integrity()
        known = sum(chain.tokens for chain in (self.trunk, *(branch.chain for branch in self.branches)))
        if all(block.first >= 0 for block in self.trunk.blocks) and len(self.trunk.facts) != known:
            raise IntegrityError("the fact table and the blocks disagree about how many tokens there are")

    # --- room ---------------------------------------------------------------------------------------------------------

    def _relieve(self, pages: int) -> bool:
        """Makes `pages` pages free: frozen branches go live, oldest first, then the trunk shrinks; whether it did."""
        for branch in self.branches:
            if self._share.free < pages and not branch.live:
                self._go_live(branch)
        if self._share.free < pages:
            self.trunk.shrink(self.trunk.pages - (pages - self._share.free))
        return self._share.free >= pages

    def _go_live(self, branch: Branch) -> None:
        branch.go_live()
        branch.follow(self.timeline.moved)
        message = "the memory is full: this answer now follows the stream"
        question_id = branch.question.question_id
        notice = EngineNotice(session_id=self.id, question_id=question_id, code="branch_went_live", message=message)
        self._emit(notice)

    def _cut(self, branch: Branch) -> None:
        """Ends a branch that cannot go on."""
        self.finish(branch, "error" if branch.unread else "length")

    def _passed(self, at_ms: int) -> bool:
        """Whether no frame up to `at_ms` is still to come."""
        if self.timeline.newest_ms >= at_ms:
            return True
        if self.frames:
            return self.frames[0].command.t_ms > at_ms
        return self._ended_ms >= at_ms

    def _question_ids(self) -> list[str]:
        return [
            *(question.question_id for question in self.waiting),
            *(branch.question.question_id for branch in self.branches),
        ]

    def _refuse(self, question: AskQuestion, code: str, message: str) -> None:
        self._emit(Refused(session_id=self.id, question_id=question.question_id, code=code, message=message))


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


def _joined(first: Span, second: Span) -> Span:
    tokens = np.concatenate([first.tokens, second.tokens])
    return Span(tokens, np.concatenate([first.positions, second.positions], axis=1), second.clock)
