"""The chat grammar: which tokens a session's stream is made of, and where each of them stands.

    header    <|im_start|>system\\n{instructions}<|im_end|>\\n<|im_start|>user\\n
    segment   <|vision_start|> grid grid ... <|vision_end|>
    grid      height * width <|video_pad|>
    timed     <12.0 seconds> <|vision_start|> grid <|vision_end|>     in place of segments, for families that learned so
    question  [<|vision_end|>] {question}<|im_end|>\\n<|im_start|>assistant\\n
    answer    generated tokens, the last one <|im_end|>

Engine, training and tests all lay their tokens out through this module. Every verb takes a clock and gives a span that
holds the clock after it; clocks are values, so a branch is simply a span that nobody gives back to the trunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.models.clock import Clock, Positions

INSTRUCTIONS = "You are watching a live video."


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that the grammar is built from."""

    endoftext: int
    im_start: int
    im_end: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int

    @property
    def stops(self) -> frozenset[int]:
        """The ids that end an answer."""
        return frozenset((self.im_end, self.endoftext))


class TextEncoder(Protocol):
    """What the grammar needs of a tokenizer."""

    @property
    def special(self) -> SpecialTokens: ...

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens int64 [n] with their positions int64 [3, n], and the clock after them."""

    tokens: NDArray[np.int64]
    positions: Positions
    clock: Clock

    def __len__(self) -> int:
        return len(self.tokens)


class Chat:
    """Lays out a session's stream for one model; holds no state of any session."""

    def __init__(self, encoder: TextEncoder, rate: float, *, timestamps: bool = False) -> None:
        """`rate`: positions per second of session time, `tokens_per_second` of the model's vision configuration.

        `timestamps`: every frame is a segment of its own, behind its session time in words (Qwen3-VL).
        """
        self._encode = encoder.encode
        self._special = encoder.special
        self._rate = rate
        self.timestamps = timestamps
        newline = self._encode("\n")
        start, end = self._special.im_start, self._special.im_end
        self._user_turn = [*newline, start, *self._encode("user\n")]
        self._assistant_turn = [end, *newline, start, *self._encode("assistant\n")]

    def header(self, instructions: str = "") -> Span:
        """The start of every session: the system turn and the opening of the user's, on a new clock.

        Where no instructions are given, `INSTRUCTIONS` stand: the bundled model has never seen an empty system turn.
        """
        system = f"system\n{instructions or INSTRUCTIONS}"
        tokens = [self._special.im_start, *self._encode(system), self._special.im_end, *self._user_turn]
        return _text(Clock(self._rate), tokens)

    def frame(
        self,
        clock: Clock,
        time_ms: int,
        height: int,
        width: int,
        *,
        scene_change: bool = False,
        patches: NDArray[np.int64] | None = None,
    ) -> Span:
        """One frame at session time `time_ms`, as a grid of height x width merged patches.

        The span's last height * width tokens are the grid, or only those of its row-major `patches`, each where it
        stands in the whole grid; before them stand the tokens that close the segment before it and open its own, where
        that is needed.
        """
        spans = []
        segment = clock.segment
        parted = scene_change or self.timestamps
        if segment is not None and (parted or not segment.admits(time_ms, height, width)):
            spans.append(self.close(clock))
            clock = spans[-1].clock
        if clock.segment is None:
            spans.append(_text(clock, [*self._timestamp(time_ms), self._special.vision_start]))
            clock = spans[-1].clock.opened(height, width)
        positions, after = clock.grid(time_ms)
        if patches is not None:
            positions = positions[:, patches]
        pads = np.full(positions.shape[1], self._special.video_pad, dtype=np.int64)
        return _joined(*spans, Span(pads, positions, after))

    def _timestamp(self, time_ms: int) -> list[int]:
        return self._encode(f"<{time_ms / 1000:.1f} seconds>") if self.timestamps else []

    def close(self, clock: Clock) -> Span:
        """The end of the open segment; an empty span if none is open."""
        tokens = [] if clock.segment is None else [self._special.vision_end]
        return _text(clock.closed(), tokens)

    def question(self, clock: Clock, text: str) -> Span:
        """A question and the opening of its answer: the start of a branch when `clock` is the trunk's at the fork.

        An open segment is closed by the span's own first token; the trunk's clock, a value, keeps it open.
        """
        closing = self.close(clock)
        return _joined(closing, _text(closing.clock, [*self._encode(text), *self._assistant_turn]))

    def answer(self, clock: Clock, tokens: Sequence[int]) -> Span:
        """Generated tokens on their branch; for a live branch, `clock` is the branch's `following` the trunk's."""
        return _text(clock, tokens)

    def remembered(self, clock: Clock, question: str, answer: Sequence[int]) -> Span:
        """A finished question and answer as the trunk takes them, up to the opening of the user's next turn.

        `answer` may lack its end (a limit was reached) or hold any stop token there; it is remembered ending in
        <|im_end|>.
        """
        asked = self.question(clock, question)
        spoken = list(answer)
        while spoken and spoken[-1] in self._special.stops:
            spoken.pop()
        return _joined(asked, _text(asked.clock, [*spoken, self._special.im_end, *self._user_turn]))


def _text(clock: Clock, tokens: Sequence[int]) -> Span:
    positions, after = clock.text(len(tokens))
    return Span(np.asarray(tokens, dtype=np.int64), positions, after)


def _joined(*spans: Span) -> Span:
    if len(spans) == 1:
        return spans[0]
    tokens = np.concatenate([span.tokens for span in spans])
    positions = np.concatenate([span.positions for span in spans], axis=1)
    return Span(tokens, positions, spans[-1].clock)
