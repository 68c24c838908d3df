"""A branch: one answer in progress, its own KV on top of the trunk's."""

from __future__ import annotations

from workers.core import Kind, Part
from workers.engine.batch import Following, Work
from workers.engine.messages import AskQuestion
from workers.engine.sampler import Sampler
from workers.memory.chain import Chain, Draft, Piece, parts_of
from workers.memory.trunk import Snapshot
from workers.models.chat import Span
from workers.models.clock import Clock
from workers.models.tokenizer import Detokenizer


class Branch:
    """Grows by `draft` and `commit`; sees the trunk as it was (`snapshot`) or, without one, as it is now."""

    def __init__(
        self,
        question: AskQuestion,
        chain: Chain,
        prompt: Span,
        snapshot: Snapshot | None,
        detokenizer: Detokenizer,
        as_of_ms: int,
        moved: int,
    ) -> None:
        """`prompt`: the question, and the tokens of the answer that are there already.

        `moved`: by how many positions the trunk's clock had been moved down in all when the branch took its place.
        """
        self.question, self.chain, self.snapshot = question, chain, snapshot
        self.clock: Clock = prompt.clock
        self.as_of_ms, self._moved = as_of_ms, moved
        self.answer = list(question.prefix)
        self.detokenizer = detokenizer
        self.text = "".join(detokenizer.push(token) for token in question.prefix)
        self.sampler = Sampler(question.temperature, question.top_p, question.seed, drawn=len(question.prefix))
        self._prompt, self._read = prompt, 0
        self._parts: tuple[Part, ...] | None = None
        self.following: Following | None = None
        """The answer's newest token while the host has not read it."""
        self.begun: float | None = None
        """When the first step came after its first token."""

    @property
    def live(self) -> bool:
        return self.snapshot is None

    @property
    def unread(self) -> int:
        """Tokens of its prompt that are still to be prefilled; 0 once it answers."""
        return len(self._prompt) - self._read

    @property
    def speaks(self) -> bool:
        """Whether tokens will come after those that are read or drawn, unless one of these ends the answer."""
        return len(self.answer) + (self.following is not None) < self.question.max_tokens

    def prompt(self, count: int) -> Span:
        """The next `count` tokens of the prompt."""
        piece = slice(self._read, self._read + count)
        return Span(self._prompt.tokens[piece], self._prompt.positions[:, piece], self._prompt.clock)

    def piece(self, span: Span) -> Piece:
        """A span as its chain takes it."""
        return Piece(Kind.TEXT, span.positions, self.as_of_ms, joins=True)

    def draft(self, span: Span, piece: Piece, trunk: Chain) -> tuple[Work, Draft]:
        """Work that writes a span, and what to commit after it."""
        draft = self.chain.draft([piece])
        wanted = self.unread in (0, len(span))
        parts = (*self._seen(trunk), *self.chain.parts())
        return Work(span.tokens, span.positions, draft.slots, parts, wanted, following=self.following), draft

    def commit(self, draft: Draft, span: Span) -> None:
        """The span is written."""
        self.chain.commit(draft)
        if self.unread:
            self._read += len(span)
        else:
            self.clock = span.clock

    def add(self, token: int) -> str:
        """Takes the answer's next token; the text that became complete with it."""
        self.answer.append(token)
        text = self.detokenizer.push(token)
        self.text += text
        return text

    def reach(self, span: Span) -> int:
        """Positions from the farthest key that the branch sees, the header's or its own first, through a span's end."""
        first = self.chain.blocks[0] if self.chain.blocks else None
        return int(span.positions[0, -1]) + 1 - min(0, first.low - first.turn if first else 0)

    def go_live(self) -> None:
        """Lets go of the trunk as it was."""
        if self.snapshot is not None:
            self.snapshot.release()
            self.snapshot = self._parts = None

    def follow(self, moved: int) -> None:
        """Follows the trunk's clock, which has been moved down by `moved` positions in all."""
        by, self._moved = moved - self._moved, moved
        if by == 0:
            return
        self.chain.turn(by)
        self.clock = self.clock.shifted(-by)
        if self.unread:
            prompt = self._prompt
            self._prompt = Span(prompt.tokens, prompt.positions - by, prompt.clock.shifted(-by))

    def end(self) -> None:
        """Frees all that the branch holds."""
        self.go_live()
        self.chain.clear()

    def _seen(self, trunk: Chain) -> tuple[Part, ...]:
        if self.snapshot is None:
            return trunk.parts()
        if self._parts is None:
            self._parts = parts_of(self.snapshot.blocks)
        return self._parts
