"""A trunk and its clock: lays texts and frames out, and keeps them inside budget and trained length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from workers.core import Kind
from workers.engine.batch import Shown, Work
from workers.memory.chain import Draft, Piece
from workers.memory.trunk import Trunk
from workers.models.chat import Chat, Span
from workers.models.clock import Clock
from workers.perception.changes import Patches, faded
from workers.perception.vision import Features

Spell = Callable[[Clock], Span]
"""Lays tokens out from wherever the clock will stand."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a trunk must stay within.

    `pages`: of the session's share, what the trunk may have; the rest is for branches and for what they pin.
    `trained_length`: no query may stand farther from a key that it sees. `reserve`: positions of it kept for branches.
    """

    pages: int
    trained_length: int
    reanchor: bool = True

    @property
    def reserve(self) -> int:
        return self.trained_length // 4


class Writing(NamedTuple):
    """Tokens under way into the trunk: the work that computes them, and what is true once it is done."""

    work: Work
    draft: Draft
    clock: Clock
    newest_ms: int


class Timeline:
    """Writes one thing at a time: `text` or `frame` draws it up, `commit` makes it part of the trunk."""

    def __init__(self, trunk: Trunk, clock: Clock, chat: Chat, bounds: Bounds, relieve: Callable[[int], bool]) -> None:
        """`relieve` makes so many pages of the session's share free, or says that it cannot."""
        self.trunk, self.clock, self.bounds = trunk, clock, bounds
        self.newest_ms = -1
        self.moved = 0
        """By how many positions the clock has been moved down so far."""
        self._chat, self._relieve = chat, relieve
        self._grids = 0

    @property
    def faded_ms(self) -> int:
        """The time up to which frames are about to leave the trunk's room, or reach, or are gone; -1: none is."""
        blocks = [block for block in self.trunk.blocks if block.kind != Kind.SYSTEM]
        reach = self.clock.next - self.bounds.reserve // 2
        kept = (block.time_ms for block in blocks if block.grid >= 0 and block.high - block.turn >= reach)
        sizes = ((block.time_ms, block.pages.shape[-1]) for block in reversed(blocks))
        return max(next(kept, self.newest_ms + 1) - 1, faded(sizes, self.bounds.pages // 2))

    def text(self, kind: Kind, spell: Spell) -> Writing | None:
        """A text in pages of its own; None if it is too large for the trunk."""
        span = self._lay_out(spell)
        if span is None:
            return None
        return self._draw_up(span, [Piece(kind, span.positions, self.newest_ms)], self.newest_ms)

    def frame(self, time_ms: int, features: Features, patches: Patches | None = None) -> Writing | None:
        """A frame, or only some of its `patches`, with the tokens that open its segment.

        Positions are those of the whole grid, whatever is left of it. None if the policy makes no room for it.
        """
        tokens = features.of(patches)
        span = self._lay_out(self._frame(time_ms, features.height, features.width, patches))
        if span is None:
            return None
        pieces = self._pieces(span, len(span) - len(tokens), time_ms, patches)
        return self._draw_up(span, pieces, time_ms, tokens, Shown(features, patches))

    def demand(self, time_ms: int, height: int, width: int, patches: Patches | None = None) -> tuple[Trunk, int]:
        """The trunk, and how many pages it may have at most if such a frame is to be written."""
        _, need = self._ahead(time_ms, height, width, patches)
        return self.trunk, self.bounds.pages - need

    def fits(self, time_ms: int, height: int, width: int, patches: Patches | None = None) -> bool:
        """Whether such a frame can be written with nothing going and no position moving for it."""
        span, need = self._ahead(time_ms, height, width, patches)
        return self._near(span.clock) and self.trunk.pages + need <= self.bounds.pages and self.trunk.free >= need

    def pass_by(self, time_ms: int) -> None:
        """A frame that is like the one before it: time goes on, and nothing is written."""
        self.newest_ms = max(self.newest_ms, time_ms)
        while not self._near(after := self.clock.passing(time_ms)):
            if not self._come_down():
                return
        self.clock = after

    def commit(self, writing: Writing) -> None:
        """The work is done: its tokens are part of the trunk, all at once."""
        self.trunk.commit(writing.draft)
        self.clock = writing.clock
        self.newest_ms = max(self.newest_ms, writing.newest_ms)
        self._grids += any(piece.kind == Kind.FRAME for piece in writing.draft.pieces)

    def _frame(self, time_ms: int, height: int, width: int, patches: Patches | None) -> Spell:
        def spell(clock: Clock) -> Span:
            split = self._far(clock)
            return self._chat.frame(clock, time_ms, height, width, scene_change=split, patches=patches)

        return spell

    def _ahead(self, time_ms: int, height: int, width: int, patches: Patches | None) -> tuple[Span, int]:
        """A frame where it would stand now, and the pages that it would take."""
        span = self._frame(time_ms, height, width, patches)(self.clock)
        tokens = height * width if patches is None else len(patches)
        return span, self.trunk.pages_for(self._pieces(span, len(span) - tokens, time_ms, patches))

    def _draw_up(
        self,
        span: Span,
        pieces: list[Piece],
        newest_ms: int,
        features: Tensor | None = None,
        shown: Shown | None = None,
    ) -> Writing | None:
        if not self._make_room(pieces):
            return None
        draft = self.trunk.draft(pieces)
        parts = self.trunk.parts()
        work = Work(span.tokens, span.positions, draft.slots, parts, wanted=False, features=features, shown=shown)
        return Writing(work, draft, span.clock, newest_ms)

    def _make_room(self, pieces: list[Piece]) -> bool:
        """Has the policy shrink the trunk until the pieces fit; dropping a text may cost them the page they shared."""
        while True:
            need = self.trunk.pages_for(pieces)
            if self.trunk.pages + need > self.bounds.pages:
                if not self.trunk.shrink(self.bounds.pages - need):
                    return False
            elif self.trunk.free >= need:
                return True
            elif not self._relieve(need):
                return False

    def _pieces(self, span: Span, lead: int, time_ms: int, patches: Patches | None) -> list[Piece]:
        """A frame's grid behind `lead` tokens of text: its own time, or what opens a segment of many frames."""
        segment = span.clock.segment
        reach = None if segment is None else (segment.base, span.clock.next - 1)
        grid = Piece(Kind.FRAME, span.positions[:, lead:], time_ms, self._grids, patches=patches, reach=reach)
        if self._chat.timestamps:
            low, high = int(span.positions[0, 0]), span.clock.next - 1
            return [replace(grid, positions=span.positions, lead=lead, reach=(low, high))]
        if not lead:
            return [grid]
        opening = span.positions[:, :lead]
        return [Piece(Kind.TEXT, opening, self.newest_ms, joins=self._goes_on(int(opening[0, 0]))), grid]

    def _goes_on(self, position: int) -> bool:
        """Whether no gap lies between the trunk's last key and this position."""
        last = self.trunk.blocks[-1]
        return last.high - last.turn + 1 == position

    def _far(self, clock: Clock) -> bool:
        """Whether the open segment has grown so long that its first keys would soon be out of reach."""
        segment = clock.segment
        return segment is not None and clock.next - segment.base > self.bounds.reserve

    def _lay_out(self, spell: Spell) -> Span | None:
        """What a spell gives once the clock has come down far enough for it; None if it cannot."""
        while not self._near((span := spell(self.clock)).clock):
            if not self._come_down():
                return None
        return span

    def _near(self, clock: Clock) -> bool:
        """Whether a branch that starts there still stays within the trained length."""
        return not self.bounds.reanchor or clock.next + self.bounds.reserve <= self.bounds.trained_length

    def _come_down(self) -> bool:
        """Brings the clock down by closing gaps or, where there are none, makes one; False if nothing can go."""
        segment = self.clock.segment
        moved = self.trunk.close_gaps(self.clock.next if segment is None else segment.base)
        if not moved:
            return self.trunk.drop_oldest()
        self.moved += moved
        self.clock = self.clock.shifted(-moved)
        return True
